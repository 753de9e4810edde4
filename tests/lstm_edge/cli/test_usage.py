"""What people type wrong, and the answer that prescribes an action: one table for all
verbs."""

import pickle
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from lstm_edge import LSTM1, Run, save
from lstm_edge.cli import _VERBS
from lstm_edge.cli.stream import StateFile
from lstm_edge_runtime import load

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 4, batch_first=True)

    def forward(self, series):
        return self.rnn(series)[0]

class Packed(Net):
    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.rnn(packed)[1][0][-1]

class Fixed(Net):
    def forward(self, x):
        h = torch.zeros(1, 7, 4)
        return self.rnn(x, (h, h))[0]

class Last(Net):
    def forward(self, x):
        return self.rnn(x)[0][:, -1]

class Lengths(Net):
    def forward(self, x, token_lengths):
        return self.rnn(x)[0]

def build():
    return Net()

async def later():
    return build()

def leaves():
    raise SystemExit(5)

number = 3
"""


RUNTIME_DATA = Path(__file__).parents[2] / "runtime" / "data"


class Evil:
    def __reduce__(self):
        return print, ("ran",)


@pytest.fixture
def folder(tmp_path, har, make, monkeypatch):
    torch.manual_seed(0)
    save(Run(LSTM1(3, 3, 4, 1, 5)), tmp_path / "run")
    (tmp_path / "run" / "metrics.json").write_text("{}")
    torch.save(LSTM1(3, 3, 4, 1, 5).state_dict(), tmp_path / "lstm1.pth")
    torch.save({"gru.weight_ih_l0": torch.zeros(12, 5)}, tmp_path / "gru.pth")
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "har.lep").write_bytes((RUNTIME_DATA / "lstm.lep").read_bytes())
    (tmp_path / "cut.onnx").write_bytes((RUNTIME_DATA / "lstm.onnx").read_bytes()[:999])
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "usage_nets.py").write_text(NETS)
    (tmp_path / "script.py").write_text("raise RuntimeError('trains here')\n")
    (tmp_path / "har.onnx").write_bytes(har.path.read_bytes())
    (tmp_path / "renamed.onnx").write_bytes((RUNTIME_DATA / "lstm.lep").read_bytes())
    (tmp_path / "renamed.lep").write_bytes(har.path.read_bytes())
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.onnx").write_bytes(b"hello")
    (tmp_path / "latin.csv").write_bytes(
        "ax,ay,az,label\n1,2,3,\u00e9\n".encode("latin-1")
    )
    (tmp_path / "t.csv").write_text("t,ax,y\n1,0,a\n2,1,b\n3,0,a\n")
    (tmp_path / "ids.csv").write_text("machine,ax,y\nm1,0,a\nm1,1,b\nm2,0,a\n")
    (tmp_path / "junk.npz").write_bytes(b"junk")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "zip.npz").write_bytes(b"PK\x03\x04")
    StateFile(load(make("other", seed=9).path).stream(), tmp_path / "other.npz")
    np.savez(tmp_path / "data.npz", x=np.zeros((4, 6, 3), np.float32), y=[0, 1, 0, 1])
    (tmp_path / "link.png").symlink_to("har.onnx")
    (tmp_path / "days").mkdir()
    np.savez(tmp_path / "nan.npz", x=np.full((1, 2, 3), np.nan))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


NET = "export usage_nets:build --input series"
LAST = "export usage_nets:Last --input x=N,L,3 -o m.onnx"
TABLE = [
    (
        "export usage_nets:Packed --input x=N,L,3 --input lengths=N -o m.onnx",
        "if lengths are lengths or indices, give their dtype: --input lengths=N:int64",
    ),
    # verbs, options, arguments
    ("exprot run -o a.onnx", "no verb 'exprot'; did you mean 'export'?"),
    ("stream har.onnx --stats s.npz", "'--state'"),
    ("inspect", "Missing argument 'MODEL'; see lstm-edge inspect --help"),
    ("inspect har.onnx other.onnx", "unexpected extra argument"),
    ("convert har.onnx --to paper -o x", "'paper' is not one of"),
    ("convert har.onnx --to", "--to"),
    ("selftest har.onnx --threads none", "'none' is not a valid integer"),
    ("selftest har.onnx --threads 0", "threads is 0, expected 1 or more"),
    ("validate har.onnx --seed " + "9" * 5000, "seed"),
    ("bench", "Missing argument 'MODELS...'"),
    ("bench har.onnx --streams 0", "streams is 0, expected 1 or more"),
    ("bench har.onnx --seconds 0", "seconds is 0.0, expected more than 0"),
    # a file of another kind
    (
        "stream run",
        (
            "run is a run folder, expected an .onnx file; run lstm-edge export run -o"
            " run.onnx"
        ),
    ),
    ("convert run -o a.lep", "run lstm-edge export run -o run.onnx"),
    (
        "validate run --against har.onnx",
        "run is a run folder, expected an .onnx file; run lstm-edge export",
    ),
    (
        "selftest lstm1.pth",
        "a PyTorch checkpoint, expected an .onnx file; run lstm-edge export",
    ),
    (
        "score data -m lstm1.pth -o s",
        "a PyTorch checkpoint, expected an .onnx file; run lstm-edge export",
    ),
    ("convert lstm1.pth --to c -o m_c", "run lstm-edge export lstm1.pth -o lstm1.onnx"),
    (
        "train run -o other",
        "run is a trained run, not data; run lstm-edge export run -o model.onnx",
    ),
    ("predict har.onnx run", "run is a trained run, not data"),
    (
        "predict data.npz har.onnx",
        "is a data file, expected an .onnx file; MODEL is the first argument",
    ),
    ("inspect text.onnx", "text.onnx"),
    ("inspect none.onnx", "none.onnx does not exist"),
    ("predict 'a\x1b[2J\n.onnx' data.npz", "a\\x1b[2J\\n.onnx"),
    # outputs
    ("quantize har.onnx -o a.pt", "a.pt is not named .onnx; use -o a.onnx"),
    ("lift har.onnx -o a", "a is not named .onnx; use -o a.onnx"),
    ("export run -o a.onnx -o a", "a is not named .onnx or .lep; use -o a.onnx"),
    ("lift har.onnx -o no/a.onnx", "create it first"),
    ("lift har.onnx -o .", "is a folder"),
    (
        "quantize har.lep -o a.onnx",
        "har.lep is a program; give the .onnx file that it was made from",
    ),
    (
        "lift har.lep -o a.onnx",
        "har.lep is a program of lstm-edge: its states are inputs and outputs already",
    ),
    ("selftest renamed.onnx", "renamed.onnx is a program; rename it to .lep"),
    ("lift renamed.onnx -o a.onnx", "renamed.onnx is a program; rename it to .lep"),
    ("selftest renamed.lep", "renamed.lep is not a program: it does not start with"),
    ("lift renamed.lep -o a.onnx", "name an ONNX file .onnx"),
    ("validate renamed.lep", "name an ONNX file .onnx"),
    ("quantize renamed.lep -o a.onnx", "name an ONNX file .onnx"),
    (
        "export usage_nets:Last.nope --input x=N,L,3 -o a.onnx",
        "usage_nets:Last.nope does not exist; expected a run folder, a checkpoint file,"
        " or the factory of a module, such as usage_nets:build",
    ),
    (
        "validate har.onnx --against empty",
        "empty has no model.safetensors; expected a run folder of lstm-edge train",
    ),
    (
        "export usage_nets: --input series=N,L,3 -o a.onnx",
        "that gives the network: usage_nets:NAME",
    ),
    (
        "convert har.lep --to c -o c",
        "har.lep is a program; give the .onnx file that it was made from",
    ),
    (
        "validate har.onnx --against har.lep",
        "har.lep is a program; give the .onnx file that it was made from",
    ),
    (
        "selftest har.lep --trace har.lep",
        "har.lep is a program; give the .onnx file that it was made from",
    ),
    (
        "export usage_nets:Last --weights text.onnx --input x=N,L,3 -o a.onnx",
        "text.onnx is not a checkpoint: torch.save did not write it",
    ),
    (
        "quantize har.onnx -o a.onnx --min-agreement 2",
        "expected 0 or more, at most 1",
    ),
    (
        "validate cut.onnx",
        "cut.onnx: truncated, or not an ONNX file; export or copy it again",
    ),
    ("convert har.onnx -o har.ort", "is not named .lep; use -o har.lep"),
    ("convert har.onnx -o no/har.lep", "create it first"),
    ("convert none.onnx --to c -o .", "contains "),
    ("predict har.onnx data.npz -o no/out.csv", "create it first"),
    ("validate har.onnx --junit no/report.xml", "create it first"),
    # outputs that are read by the same command
    ("predict har.onnx data.npz -o data.npz", "data.npz is read by this command"),
    ("predict har.onnx data.npz -o har.onnx", "har.onnx is read by this command"),
    ("predict har.onnx data.npz --plot link.png", "another name for --plot"),
    ("predict har.onnx days -o days/p.csv", "one of the data files in days"),
    (
        "predict har.onnx data.npz --plot a.png -o ./a.png",
        "a.png would be written twice",
    ),
    ("validate har.onnx --junit har.onnx", "another name for --junit"),
    ("validate har.onnx --data data.npz --junit data.npz", "would be replaced"),
    (
        "validate har.onnx --against usage_nets:Last --html usage_nets.py",
        "usage_nets.py is read by this command",
    ),
    (
        "validate har.onnx --against run --html run/model.safetensors",
        "run/model.safetensors is read by this command",
    ),
    ("validate har.onnx --against cut.onnx --junit cut.onnx", "would be replaced"),
    (
        "validate har.onnx --against usage_nets:Last --weights gru.pth --junit gru.pth",
        "gru.pth is read by this command",
    ),
    ("validate har.onnx --junit r.xml --html r.xml", "would be written twice"),
    ("stream har.onnx --state har.onnx", "another name for --state"),
    ("export run -o a.onnx -o ./a.onnx", "a.onnx would be written twice"),
    (
        "export usage_nets:build --weights cut.onnx -o cut.onnx",
        "cut.onnx is read by this command",
    ),
    ("convert har.onnx -o har.onnx", "har.onnx is read by this command"),
    # train and data
    (
        "train none.npz -o r",
        "none.npz does not exist; expected a .npz, .npy, .csv, .parquet or .wav file",
    ),
    (
        "train data.npz -o data.npz",
        "looks like a file name; -o is a folder for the run",
    ),
    (
        "train data.npz -o a.pt",
        "a.pt looks like a file name; -o is a folder for the run",
    ),
    ("train data.npz -o r", "series, too few for a test set; provide more data"),
    ("train data.npz -o r --epochs 0", "epochs is 0, expected 1 or more"),
    ("train data.npz -o r --resume --overwrite", "give only one of them"),
    ("train data.npz -o r --target a,,b", "expected NAME,NAME"),
    ("train t.csv -o r --forecast ax", "give one, such as --window 50"),
    ("train ids.csv -o r --label y", "--series names an id, --order a time"),
    ("train latin.csv -o r", "name its encoding, such as --encoding latin-1"),
    ("predict har.onnx nan.npz -o p.csv", "sample 0, step 0, column 'x0' is ''"),
    ("quantize har.onnx -o a.onnx --for gpu", "fp16"),
    ("quantize har.onnx -o a.onnx --data none.npz", "none.npz does not exist"),
    ("quantize har.onnx -o a.onnx --max-drift inf", "drift is inf"),
    # stream
    ("stream har.onnx --state junk.npz", "junk.npz is not a saved state"),
    ("stream har.onnx --state empty.npz", "empty.npz is not a saved state"),
    ("stream har.onnx --state zip.npz", "zip.npz is not a saved state"),
    (
        "stream har.onnx --state other.npz",
        "other.npz is the state of another model; remove it",
    ),
    ("stream har.onnx --state no/s.npz", "does not exist"),
    ("stream har.onnx --features ax", "--features names 1 columns, the model takes 3"),
    (
        "stream har.onnx --window 6 --state s.npz",
        "--window has no state; remove --state",
    ),
    ("stream har.onnx --reset-every window", "neither 'never' nor a positive integer"),
    ("stream har.onnx --reset_every 5", "Did you mean '--reset-every'?"),
    ("stream har.onnx --reset-every 0", "neither 'never' nor a positive integer"),
    # export
    (
        "export nothing -o m.onnx",
        "or the factory of a module, such as nothing:build",
    ),
    ("export nothing -o m.pt", "use -o m.onnx"),
    ("export har.onnx -o m.onnx", "har.onnx is already exported"),
    (
        "export gru.pth -o m.onnx",
        "mynet:build --weights gru.pth --input x=N,L,5 -o gru.onnx",
    ),
    (
        "export lfs.pth -o m.onnx",
        "a git-lfs pointer, not the file itself; run: git lfs pull",
    ),
    (
        "export run -o m.onnx --rate 5",
        "run is a run, which describes itself; remove --rate",
    ),
    (
        "export lstm1.pth -o m.onnx --weights gru.pth",
        "lstm1.pth is a checkpoint; remove --weights",
    ),
    (
        "export usage_nets:build --input series=N,L,3 --scale s.json -o m.onnx",
        "remove --scale",
    ),
    ("export usage_nets:build -o m.onnx", "describe each input"),
    (
        "export usage_nets:Build --input x=N,L,3 -o m.onnx",
        "no 'Build'; did you mean 'build'?",
    ),
    (
        "export usage_nets:number --input x=N,L,3 -o m.onnx",
        "returned int, expected a torch.nn.Module",
    ),
    (
        "export usage_nets:later --input x=N,L,3 -o m.onnx",
        "later is an async function, expected one that returns a torch.nn.Module",
    ),
    ("export usage_nets:leaves --input x=N,L,3 -o m.onnx", "SystemExit: 5"),
    (
        "export nowhere:build --input x=N,L,3 -o m.onnx",
        "importable from this folder, without .py",
    ),
    (
        "export usage_nets.py:build --input x=N,L,3 -o m.onnx",
        "a module is named without .py; use usage_nets:build",
    ),
    (
        "export script:LSTM1 --input x=N,L,3 -o m.onnx",
        "trains only under if __name__ == '__main__'",
    ),
    (
        "export usage_nets:build --input x=N,L,3 -o m.onnx",
        "such as --input series=N,L,3",
    ),
    (f"{NET}=N,L -o m.onnx", "takes 3 features: --input series=N,L,3"),
    (
        "export usage_nets:Lengths --input x=N,L,3 -o m.onnx",
        "--input token_lengths=N,L,8 (N:int64 for",
    ),
    (
        "export usage_nets:Fixed --input x=N,L,3 -o m.onnx",
        "usage_nets.py:21: return self.rnn(x, (h, h))[0]",
    ),
    (f"{NET} -o m.onnx", "--input series: expected NAME=VALUE"),
    (
        f"{NET}=N,0,3 -o m.onnx",
        "--input series=N,0,3: axis '0' is neither a positive number nor a valid name",
    ),
    (f"{NET}=N:int99 -o m.onnx", "with a dtype of float32"),
    (f"{NET}=N,L:8..4,3 -o m.onnx", "N,L:500,8 for an example of 500 steps"),
    (f"{NET}=N,99999999999999999999 -o m.onnx", "can't create an example"),
    (
        f"{NET}=N,L,3 --input series=N,L,3 -o m.onnx",
        "expected NAME=VALUE, each name once",
    ),
    (f"{NET}=N,L,3 --weights gru.pth -o m.onnx", "does not fit usage_nets:build"),
    (f"{NET}=N,L,3 --weights evil.pt -o m.onnx", "run code"),
    (f"{LAST} --labels a,b,c", "got 3 labels, expected 4"),
    (f"{LAST} --labels a,a", "a name is empty or given twice"),
    (f"{LAST} --features a,b", "got 2 features, expected 3"),
    ("export lstm1.pth --features a,b -o m.onnx", "features has 2 entries, expected 3"),
    ("export lstm1.pth --units m,s -o m.onnx", "units has 2 entries, expected 3"),
    (
        "export lstm1.pth --scale none.json -o m.onnx",
        "none.json does not exist; expected mean and std, or min and max",
    ),
    ("export lstm1.pth --scale lstm1.pth -o m.onnx", "is not a scale"),
    (
        f"{NET}=N,L,7 -o m.onnx",
        "its first layer takes 3 features: --input series=N,L,3",
    ),
    (f"{LAST} --rate fast", "'fast' is not a rate; expected, for example, 100"),
    (
        "export usage_nets:build --weights gruu.pth --input series=N,L,3 -o m.onnx",
        "gruu.pth does not exist",
    ),
    ("export usage_nets:build --input series=N,L,3 -o g.tflite", "use -o g.onnx"),
    # validate
    ("validate none.onnx", "none.onnx does not exist"),
    ("validate har.onnx --against nowhere", "nowhere"),
    ("validate har.onnx --against run/metrics.json", "the run is the folder: run"),
    (
        "validate har.onnx --against run --weights gru.pth",
        "--weights requires --against package.module:factory",
    ),
    (
        "validate har.onnx --weights gru.pth",
        "--weights requires --against package.module:factory",
    ),
    ("validate har.onnx --against os:getcwd", "expected a torch.nn.Module"),
    # lift and convert
    ("lift har.onnx -o a.onnx --input x", "expected NAME=VALUE"),
    (
        "lift har.onnx -o a.onnx --input x=N,0,3",
        "neither a positive number nor a valid name",
    ),
    (
        "lift har.onnx -o a.onnx --state h",
        "--state h: expected NAME=VALUE, each name once",
    ),
    ("lift har.onnx -o a.onnx --branch rate=fast", "could not convert"),
    ("convert har.onnx --to c -o har_c --name for", "keyword"),
    ("convert har.onnx -o har.tflite", "use -o har.lep, or --to c or web"),
    ("convert har.onnx", "Missing option '-o'"),
    ("lift lstm1.pth -o l.onnx", "run lstm-edge export lstm1.pth -o lstm1.onnx"),
    ("bench har.onnx --device gpu", "'gpu' is not one of 'cpu', 'cuda'"),
    ("selftest none.lep", "none.lep does not exist"),
    ("convert har.onnx -o har.lep --name har", "--name is only valid with --to c"),
    ("convert har.onnx --to c -o har.lep", "expected a folder; omit --to"),
]


@pytest.mark.parametrize(
    ("words", "message"), TABLE, ids=[words[:40] for words, _ in TABLE]
)
def test_an_error_is_one_line_that_says_what_to_do_and_nothing_is_written(
    folder, invoke, words, message
):
    before = _contents(folder)
    code, out, err = invoke(*shlex.split(words))
    assert (code, out) == (2, "")
    *progress, error = err.splitlines()
    assert message in error
    assert error.startswith("error: ")
    assert error.isprintable()
    assert len(error) <= 520
    assert not [line for line in progress if "error" in line or "Traceback" in line]
    assert _contents(folder) == before


def _contents(folder):
    """Return the content of each file by its path, and None for each folder."""
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "__pycache__" not in str(path)
    }


@pytest.mark.parametrize("verb", list(_VERBS))
def test_the_help_of_every_verb_has_an_example(invoke, verb):
    code, out, _ = invoke(verb, "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    section = out.partition("Example:")[2].partition("\n\n")[0]
    commands = section.strip().replace("\\\n", "").splitlines()
    assert commands
    for command in commands:
        assert f"{command} ".count(f"lstm-edge {verb} ") == 1


def test_the_help_of_train_groups_its_options(invoke):
    _, out, _ = invoke("train", "--help")
    titles = ("\nData:", "\nWindows and sets:", "\nNetwork and training:", "\nOptions:")
    positions = [out.index(title) for title in titles]
    assert positions == sorted(positions)
    data, windows, network, options = (
        out[start:end]
        for start, end in zip(positions, [*positions[1:], None], strict=True)
    )
    assert "--label" in data
    assert "--window" in windows
    assert "--hidden-size" in network
    assert "--overwrite" in options
