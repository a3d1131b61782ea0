// The native API: plain structs of pointers, sizes and strides; status codes instead of exceptions; no torch and no
// Python. Sizes and strides count elements and are 64-bit. Callers allocate every output.
//
// Results depend neither on the number of threads nor on what else is in the batch: each output is computed by one
// fixed sequence of operations, and there are no atomic sums.
#pragma once

#include <cstdint>

namespace pyasd {

enum Status : int { kOk = 0, kOutOfMemory = 1, kUnsupported = 2 };

// Instruction sets, in rising order; and, for tests on any processor with AVX-512, AMX with its instructions emulated.
// A level can be asked for only where isa_obstacle() gives null.
enum Isa : int { kBase = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3, kAmx = 4, kAmxEmulated = 5 };

// Why this build, this processor or this operating system doesn't run a level; null where they all do.
const char* isa_obstacle(int isa);

// ---- log-Mel: see ops.log_mel for what it computes --------------------------------------------------------------

struct LogMelShape {
  int32_t n_fft;  // a power of two, 64 to 16384
  int32_t hop_length;
  int32_t n_mels;
  int32_t reflect;    // 1: pad by reflection, 0: by zeros
  int32_t floor_add;  // 1: log10(M + eps), 0: log10(max(M, eps))
  float eps;
};

struct LogMelPlan;  // tables; immutable, may be shared by threads

struct LogMelWeights {
  const double* window;   // [n_fft]
  const int32_t* starts;  // [n_mels] band b weighs the bins starts[b] ... starts[b] + counts[b] - 1
  const int32_t* counts;  // [n_mels]
  const double* weights;  // of all bands, one after the other
};

// Returns null for a shape that is not supported, or when there is no memory.
LogMelPlan* log_mel_plan_create(const LogMelShape& shape, const LogMelWeights& from);
void log_mel_plan_destroy(LogMelPlan* plan);

struct LogMelArgs {
  const void* samples;  // [clips, clip_stride] int16 or float32
  int32_t is_int16;
  int64_t clips, clip_stride;
  const int64_t* lengths;  // [clips] samples of each clip; with `reflect` more than n_fft / 2
  float* out;              // [sum over clips of 1 + length / hop_length, n_mels]
};
int log_mel(const LogMelPlan* plan, const LogMelArgs& args, int isa, int threads);

// ---- mixture head: see ops.mixture_log_prob for what it computes -------------------------------------------------

struct MixtureShape {
  int64_t dims;  // a multiple of groups
  int32_t groups, components, hidden;
  const int32_t* prefix;  // [groups] hidden units that each group sees, 0 to hidden
  float log_scale_min;
  int32_t bfloat16;  // 1: factors of the matrix product are rounded to bfloat16
};

int64_t mixture_packed_size(const MixtureShape& shape, int isa);  // floats that the packed weights take

struct MixturePackArgs {
  const float* weight;  // [3 * dims * components, hidden], contiguous
  const float* bias;    // [3 * dims * components], contiguous
  float* packed;
};
int mixture_pack(const MixtureShape& shape, const MixturePackArgs& args, int isa, int threads);

struct MixtureForwardArgs {
  const float* packed;
  const float* hidden;  // [windows, hidden], rows hidden_stride apart
  const float* target;  // [windows, dims], rows target_stride apart
  int64_t windows, hidden_stride, target_stride;
  float* out;  // [windows, per_dim ? dims : groups], contiguous
  int32_t per_dim;
};
int mixture_forward(const MixtureShape& shape, const MixtureForwardArgs& args, int isa, int threads);

struct MixtureBackwardArgs {
  const float* packed;
  const float* rows;  // the weights (for bfloat16, rounded), rows_stride apart: a multiple of 16
  int64_t rows_stride;
  const float* grad;  // [windows, per_dim ? dims : groups], contiguous; null: all are uniform_grad
  float uniform_grad;
  const float* hidden;
  const float* target;
  int64_t windows, hidden_stride, target_stride;
  int32_t per_dim;
  float* d_hidden;  // [windows, hidden], contiguous
  float* d_target;  // [windows, dims], contiguous
  float* d_weight;  // as weight; masked weights get exact zeros
  float* d_bias;
  float* log_prob;  // [windows, groups] as the forward pass gives it, or null
};
int mixture_backward(const MixtureShape& shape, const MixtureBackwardArgs& args, int isa, int threads);

// ---- Group MADE from log-Mel to log-likelihoods: see ops.group_made_score -----------------------------------------

struct DenseLayer {  // followed by ReLU
  int32_t inputs, outputs;
  const float* weight;  // [outputs, inputs]; zeros that a mask made are skipped
  const float* bias;    // [outputs]
};

struct Trunk;  // packed layers; immutable, may be shared by threads

// `frame` is how many inputs of the first layer the windows move on by. Returns null when there is no memory.
Trunk* trunk_create(const DenseLayer* layers, int32_t count, int32_t frame, int32_t bfloat16, int isa);
void trunk_destroy(Trunk* trunk);

struct GroupMadeArgs {
  const Trunk* trunk;
  const float* packed;   // of the head, whose hidden units are the last layer's outputs
  const float* log_mel;  // [frames, mels], contiguous; window w is its frames w ... w + groups - 1
  int64_t windows, mels;
  const float* band_mean;      // [mels]
  const float* inverse_scale;  // [mels]; windows are standardised by both
  const uint8_t* wanted;       // [groups] 0: the group's outputs are left as they are
  float* out;                  // [windows, per_dim ? dims : groups], contiguous
  int32_t per_dim;
};
int group_made_forward(const MixtureShape& head, const GroupMadeArgs& args, int isa, int threads);

// ---- for benchmarks: the operations in so many rounds of a loop that does nothing else -----------------------------

double probe_fma(int64_t rounds, int isa);    // floating-point operations, two to a multiply-add
double probe_pairs(int64_t rounds, int isa);  // the same of the quickest products of bfloat16 factors
double probe_exp(int64_t rounds, int isa);    // exponentials

}  // namespace pyasd
