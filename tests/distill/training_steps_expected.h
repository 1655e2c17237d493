// tests/distill/training_steps_expected.h: made by make_training_steps.py; torch 2.15.0.
#pragma once

#include <cstdint>
#include <vector>

namespace pare::test {

struct ExpectedWeight {
  const char* name;  // of the checkpoint
  int64_t index;     // in its own layout
  double value;
};
struct ExpectedSteps {
  const char* fixture;
  std::vector<double> losses, norms;  // before each step
  double sum_of_absolutes;            // of all weights, after the last step
  std::vector<ExpectedWeight> weights;
};

inline const std::vector<ExpectedSteps>& expected_steps() {
  static const std::vector<ExpectedSteps> all = {
      {"llama",
       {5.64588261, 5.28205061, 5.03459358, 4.83590364, 4.64455175, 4.46504068, 4.2878356, 4.12590837,
        3.96108007, 3.81966639},
       {8.08675861, 3.90698004, 3.42353153, 3.95899296, 2.92811012, 2.98959994, 2.8780508, 4.06817722,
        3.79056096, 4.23898172},
       10500.5135484,
       {{"model.layers.1.self_attn.q_proj.weight", 1096, -0.240009978},
        {"model.layers.0.self_attn.v_proj.weight", 905, -0.0264793914},
        {"model.layers.1.mlp.up_proj.weight", 11909, 0.146933854},
        {"model.layers.1.input_layernorm.weight", 1, 1.00919926},
        {"model.layers.1.self_attn.v_proj.weight", 1607, -0.0366062783},
        {"model.layers.1.self_attn.k_proj.weight", 508, -0.102208629},
        {"model.layers.0.mlp.down_proj.weight", 357, -0.070251748},
        {"model.layers.1.self_attn.o_proj.weight", 2446, 0.102679357}}},
      {"llama-tied",
       {5.83726454, 5.4772191, 5.20751238, 4.96698427, 4.75339413, 4.55208397, 4.34077358, 4.15271902,
        3.98100281, 3.81978369},
       {6.95827818, 5.14634657, 4.44052601, 3.51571727, 3.56674004, 3.8257339, 3.59566092, 4.29232216,
        4.41570854, 4.67813587},
       11015.4037613,
       {{"model.layers.1.mlp.down_proj.weight", 4331, -0.063223362},
        {"model.layers.1.self_attn.v_proj.weight", 1096, 0.158374384},
        {"model.layers.0.mlp.up_proj.weight", 11909, 0.000998147996},
        {"model.layers.0.mlp.gate_proj.weight", 960, -0.0183535349},
        {"model.layers.0.mlp.gate_proj.bias", 71, -0.0180642549},
        {"model.layers.0.input_layernorm.weight", 60, 1.03729546},
        {"model.embed_tokens.weight", 5396, 0.0116653405},
        {"model.layers.1.mlp.up_proj.bias", 148, 0.224708036}}},
      {"mistral",
       {5.73310995, 5.40369701, 5.19104385, 4.98382473, 4.80085373, 4.61379433, 4.43792963, 4.26400614,
        4.1132226, 3.97698665},
       {7.2570734, 4.3759985, 5.03091574, 5.28321409, 5.44085741, 4.7315731, 4.29865265, 15.7412376,
        10.758357, 4.77246046},
       10517.1418894,
       {{"model.layers.1.mlp.up_proj.weight", 11909, 0.0675195828},
        {"model.layers.1.input_layernorm.weight", 1, 0.967395484},
        {"model.layers.1.self_attn.v_proj.weight", 1607, -0.0246753395},
        {"model.layers.1.self_attn.k_proj.weight", 508, -0.0219183471},
        {"model.layers.0.post_attention_layernorm.weight", 25, 1.17173946},
        {"model.layers.1.self_attn.o_proj.weight", 2446, -0.149861112},
        {"model.layers.0.self_attn.q_proj.weight", 4055, -0.174315333},
        {"model.layers.0.self_attn.o_proj.weight", 1031, -0.105623558}}},
      {"qwen2",
       {5.84779215, 5.54449511, 5.29577827, 5.07778454, 4.86723614, 4.67611647, 4.49013472, 4.31900835,
        4.20352173, 4.06158495},
       {10.532258, 18.5841866, 6.60998535, 4.97962666, 4.46945047, 5.1949892, 5.17345762, 12.0486393,
        7.34803629, 4.85800838},
       8988.20027725,
       {{"model.layers.0.mlp.gate_proj.weight", 235, 0.0691285133},
        {"model.layers.1.post_attention_layernorm.weight", 8, 0.905211568},
        {"model.layers.1.self_attn.v_proj.weight", 905, 0.0285099261},
        {"model.norm.weight", 0, 1.12355566},
        {"model.layers.1.self_attn.q_proj.bias", 60, 0.08479774},
        {"model.layers.0.mlp.down_proj.weight", 7449, -0.0104289548},
        {"model.layers.0.post_attention_layernorm.weight", 37, 1.15678251},
        {"model.layers.1.mlp.up_proj.weight", 2516, 0.0644203871}}},
      {"qwen3",
       {5.71667957, 5.4505291, 5.17768908, 4.91390467, 4.6784687, 4.45791721, 4.28837395, 4.11143446,
        3.90963912, 3.7680707},
       {8.66776657, 4.8785944, 3.81971431, 4.29707766, 4.87401438, 7.93997526, 5.07766867, 7.09119129,
        3.90816259, 7.43629503},
       10566.5463848,
       {{"model.layers.1.self_attn.o_proj.weight", 235, 0.0400359072},
        {"model.norm.weight", 8, 1.20844829},
        {"model.layers.1.input_layernorm.weight", 9, 0.65517807},
        {"model.layers.1.mlp.up_proj.weight", 7813, -0.00111926137},
        {"model.layers.0.self_attn.o_proj.weight", 5056, 0.110693812},
        {"model.layers.1.self_attn.v_proj.weight", 129, -0.0476772673},
        {"model.layers.1.post_attention_layernorm.weight", 20, 0.882811785},
        {"lm_head.weight", 12645, -0.18985036}}},
      {"gpt2",
       {5.90359497, 5.60701275, 5.4223175, 5.27561808, 5.1133132, 4.94779062, 4.78057814, 4.64122581,
        4.48785257, 4.33883524},
       {5.16372585, 4.22470093, 1.92510509, 2.42040372, 2.19897175, 2.3456018, 2.4486084, 2.65175343,
        2.47689962, 2.78928828},
       8216.54771397,
       {{"transformer.h.0.attn.c_proj.weight", 905, 0.00606826507},
        {"transformer.h.0.ln_2.weight", 0, 1.05721021},
        {"transformer.h.0.ln_1.bias", 1, -0.0889667869},
        {"transformer.h.0.mlp.c_fc.weight", 2556, 0.0140729304},
        {"transformer.h.0.ln_2.bias", 25, 0.222690374},
        {"transformer.h.0.mlp.c_proj.bias", 37, 0.334415615},
        {"transformer.h.1.mlp.c_proj.weight", 252, -0.0964218304},
        {"transformer.h.0.mlp.c_proj.weight", 11742, -0.0174769424}}},
      {"mixtral",
       {5.06641865, 4.6890254, 4.42509937, 4.20324564, 4.05374193, 3.83246875, 3.68121362, 3.42993832,
        3.27041268, 3.15158439},
       {5.31461668, 4.9281373, 4.28326797, 4.26242447, 6.93435383, 4.70259953, 4.42131901, 4.48731947,
        4.25863218, 10.51334},
       15529.254945,
       {{"model.layers.1.block_sparse_moe.experts.0.w1.weight", 4331, 0.550616205},
        {"model.layers.1.self_attn.o_proj.weight", 1096, 0.0255686771},
        {"model.layers.1.block_sparse_moe.gate.weight", 133, 0.0812583566},
        {"model.layers.1.block_sparse_moe.experts.0.w2.weight", 960, -0.153456852},
        {"model.layers.0.block_sparse_moe.experts.3.w1.weight", 129, 0.00233876798},
        {"model.layers.0.block_sparse_moe.experts.3.w2.weight", 1607, 0.062118236},
        {"model.layers.0.post_attention_layernorm.weight", 60, 1.24167109},
        {"model.layers.0.block_sparse_moe.experts.1.w3.weight", 1305, -0.0153274229}}},
  };
  return all;
}

}  // namespace pare::test
