"""Training an LSTM1 from a data file into a run folder."""
