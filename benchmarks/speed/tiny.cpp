/* One LSTM of 1 input and a linear head, in a library for sound with sizes at compile time. Built by tiny.py. */
#include <cstddef>
#include <vector>

#if defined(NEURAL_AUDIO)
#include <NeuralAudio/LSTM.h>
#else
#include <RTNeural/RTNeural.h>
#endif

namespace {
#if defined(NEURAL_AUDIO)
NeuralAudio::LSTMModelT<1, HIDDEN> model;
#else
RTNeural::ModelT<float, 1, 1, RTNeural::LSTMLayerT<float, 1, HIDDEN>, RTNeural::DenseT<float, HIDDEN, 1>> model;
#endif
} // namespace

/* Weights as in PyTorch, gates i f g o: w (4 * HIDDEN), r (4 * HIDDEN, HIDDEN), b (4 * HIDDEN), head (HIDDEN) and its bias. */
extern "C" void begin(const float *w, const float *r, const float *b, const float *head, float bias) {
#if defined(NEURAL_AUDIO)
    NeuralAudio::LSTMDef def;
    def.Layers.resize(1);
    def.Layers[0].InputWeights.assign(w, w + 4 * HIDDEN);
    for (int k = 0; k < HIDDEN; k++) {
        for (int i = 0; i < 4 * HIDDEN; i++) def.Layers[0].HiddenWeights.push_back(r[i * HIDDEN + k]);
    }
    def.Layers[0].BiasWeights.assign(b, b + 4 * HIDDEN);
    def.HeadWeights.assign(head, head + HIDDEN);
    def.HeadBias = bias;
    model.SetWeights(def);
#else
    std::vector<std::vector<float>> inner(HIDDEN);
    for (int k = 0; k < HIDDEN; k++) {
        for (int i = 0; i < 4 * HIDDEN; i++) inner[(std::size_t)k].push_back(r[i * HIDDEN + k]);
    }
    auto &layer = model.get<0>();
    layer.setWVals({std::vector<float>(w, w + 4 * HIDDEN)});
    layer.setUVals(inner);
    layer.setBVals(std::vector<float>(b, b + 4 * HIDDEN));
    model.get<1>().setWeights({std::vector<float>(head, head + HIDDEN)});
    model.get<1>().setBias(&bias);
    model.reset();
#endif
}

extern "C" void steps(const float *x, float *y, std::size_t count) {
    for (std::size_t i = 0; i < count; i++) {
#if defined(NEURAL_AUDIO)
        model.Process(x + i, y + i, 1);
#else
        y[i] = model.forward(x + i);
#endif
    }
}
