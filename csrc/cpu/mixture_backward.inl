// The mixture head's gradients on a tile, and its log-likelihoods on the way: outputs are computed again rather than
// kept, some windows at a time, then turned into their own gradients, from which come the weights' and the hidden
// units'.

constexpr int64_t kGradientBlock = 64;  // windows whose outputs wait in the L2 cache: as many share a tile's d_weight

static std::size_t mixture_backward_scratch(const MixtureShape& shape, int64_t windows) {
  const int64_t outputs = 3 * shape.components * kLanes;
  const int64_t floats =
      4 * shape.components * kGradientBlock * kLanes + outputs + hidden_scratch(shape, windows) + 128;
  return std::size_t(floats) * sizeof(float);
}

// What one task works on, in scratch memory, for `kGradientBlock` windows.
struct Stage {
  int64_t components;
  float* density;  // [window][component][lane]: weighted log densities, then their exponentials
  // [window][component][3][lane]: logit and derivatives by mean and log scale, then the outputs' gradients
  float* d_out;
  float* d_bias;  // [component][logit, mean, log scale][lane], of all the task's windows

  int64_t step() const { return 3 * components * kLanes; }  // of d_out, from window to window
};

PYASD_INLINE vf output_gradient(const MixtureShape& shape, const MixtureTile& tile, const MixtureBackwardArgs& args,
                                int64_t row) {
  float own[kLanes] = {};
  for (int lane = 0; lane < tile.dims; ++lane) {
    own[lane] = args.grad == nullptr ? args.uniform_grad
                : args.per_dim       ? args.grad[row * shape.dims + tile.first_dim + lane]
                                     : args.grad[row * shape.groups + tile.group];
  }
  return load(own);
}

// From what the stage has of `count` windows to the gradients of the tile's outputs; each window's log-likelihoods go
// to `values`, [window][lane], unless that is null.
PYASD_APART void output_gradients(const MixtureShape& shape, const MixtureTile& tile, const MixtureBackwardArgs& args,
                                  int64_t begin, int64_t count, const Stage& stage, float* values) {
  const int64_t components = stage.components;
  for (int64_t w = 0; w < count; ++w) {
    const int64_t row = begin + w;
    const vf grad = output_gradient(shape, tile, args, row);
    float* density = stage.density + w * components * kLanes;
    float* out = stage.d_out + w * stage.step();
    vf max_logit = load(out), max_component = load(density);
    for (int64_t k = 1; k < components; ++k) {
      max_logit = larger(max_logit, load(out + 3 * k * kLanes));
      max_component = larger(max_component, load(density + k * kLanes));
    }
    const vf shift_logit = finite_shift(max_logit), shift_component = finite_shift(max_component);
    vf sum_logit = set1(0.0f), sum_component = set1(0.0f);
    for (int64_t k = 0; k < components; ++k) {
      const vf l = exp_term(load(out + 3 * k * kLanes) - shift_logit);
      const vf c = exp_term(load(density + k * kLanes) - shift_component);
      store(out + 3 * k * kLanes, l);
      store(density + k * kLanes, c);
      sum_logit = sum_logit + l;
      sum_component = sum_component + c;
    }
    if (values != nullptr) {
      float own[kLanes];
      store(own, log_mixture(max_logit, sum_logit, max_component, sum_component));
      for (int lane = tile.dims; lane < kLanes; ++lane) own[lane] = 0;
      store(values + w * kLanes, load(own));
    }
    const vf by_logit = grad / sum_logit, by_component = grad / sum_component;
    vf d_target = set1(0.0f);
    for (int64_t k = 0; k < components; ++k, out += 3 * kLanes) {
      const vf share = by_component * load(density + k * kLanes);
      const vf d_mean = share * load(out + kLanes);
      store(out, fnma(by_logit, load(out), share));
      store(out + kLanes, d_mean);
      store(out + 2 * kLanes, share * load(out + 2 * kLanes));
      d_target = d_target - d_mean;
    }
    store_part(args.d_target + row * shape.dims + tile.first_dim, d_target, tile.dims);
  }
}

// Adds to the rows of d_weight that are the tile's (`fresh`: writes them, with zeros for what the mask hides), and to
// the stage's d_bias.
PYASD_APART void weight_gradients(const MixtureShape& shape, const MixtureTile& tile, const Stage& stage,
                                  const float* hidden, int64_t stride, int64_t count, bool fresh, float* d_weight) {
  const int64_t dim_step = shape.components * shape.hidden, part_step = shape.dims * dim_step;
  for (int64_t k = 0; k < shape.components; ++k) {
    for (int64_t p = 0; p < 3; p += kRowParts) {
      const float* d = stage.d_out + (k * 3 + p) * kLanes;
      float* rows = d_weight + p * part_step + tile.first_dim * dim_step + k * shape.hidden;
      for (int part = 0; part < kRowParts; ++part) {
        float* sum = stage.d_bias + (k * 3 + p + part) * kLanes;
        vf total = load(sum);
        for (int64_t w = 0; w < count; ++w) total = total + load(d + w * stage.step() + part * kLanes);
        store(sum, total);
        for (int64_t lane = 0; fresh && lane < tile.dims; ++lane) {
          float* row = rows + part * part_step + lane * dim_step;
          for (int64_t h = tile.prefix; h < shape.hidden; ++h) row[h] = 0;
        }
      }
      in_steps<kRowVectors>(whole_vectors(tile.prefix), [&](auto vectors, int64_t v0) {
        constexpr int V = decltype(vectors)::value;
        in_steps<kRowDims>(tile.dims, [&](auto width, int64_t lane) {
          constexpr int D = decltype(width)::value, B = kRowParts * D;
          const auto own = [&](int v, int j) {
            return rows + j / D * part_step + (lane + j % D) * dim_step + (v0 + v) * kLanes;
          };
          const auto left = [&](int v) { return tile.prefix - (v0 + v) * kLanes; };
          vf sums[V][B];
          for (int v = 0; v < V; ++v) {
            for (int j = 0; j < B; ++j) sums[v][j] = fresh ? set1(0.0f) : load_part(own(v, j), left(v));
          }
          accumulate<V, B>(
              sums, hidden + v0 * kLanes, stride, count, d + lane, [](int j) { return j / D * kLanes + j % D; },
              stage.step());
          for (int v = 0; v < V; ++v) {
            for (int j = 0; j < B; ++j) store_part(own(v, j), sums[v][j], left(v));
          }
        });
      });
    }
  }
}

// The tile's share of d_hidden for `count` windows: [window][whole vectors of the prefix].
PYASD_APART void hidden_gradients(const MixtureShape& shape, const MixtureTile& tile, const MixtureBackwardArgs& args,
                                  const Stage& stage, int64_t count, float* d_hidden) {
  const int64_t vectors_seen = whole_vectors(tile.prefix);
  in_steps<kRowVectors>(vectors_seen, [&](auto vectors, int64_t v0) {
    constexpr int V = decltype(vectors)::value;
    in_whole_steps<kRowWindows>(count, [&](auto width, int64_t w) {
      constexpr int B = decltype(width)::value;
      vf sums[V][B];
      for (int v = 0; v < V; ++v) {
        for (int j = 0; j < B; ++j) sums[v][j] = set1(0.0f);
      }
      for (int64_t p = 0; p < 3; ++p) {
        for (int64_t lane = 0; lane < tile.dims; ++lane) {  // a dimension's components are rows in a row
          const int64_t row = (p * shape.dims + tile.first_dim + lane) * shape.components;
          accumulate<V, B>(
              sums, args.rows + row * args.rows_stride + v0 * kLanes, args.rows_stride, shape.components,
              stage.d_out + w * stage.step() + p * kLanes + lane, [&](int j) { return j * stage.step(); }, 3 * kLanes);
        }
      }
      for (int v = 0; v < V; ++v) {
        for (int j = 0; j < B; ++j) store(d_hidden + ((w + j) * vectors_seen + v0 + v) * kLanes, sums[v][j]);
      }
    });
  });
}

// `all` are the hidden units of windows [first, last). recompute(begin, count, emit) gives the outputs of `count`
// windows from `begin` on: emit(k, w, logit, mean, log_scale) for each component and window.
template <class Recompute>
PYASD_INLINE void backward(const MixtureShape& shape, const MixtureTile& tile, const MixtureBackwardArgs& args,
                           int64_t first, int64_t last, float* d_hidden, float* values, Scratch scratch,
                           const Hidden& all, const Recompute& recompute) {
  const int64_t size = shape.components * kGradientBlock * kLanes;
  const Stage stage{shape.components, scratch.take(size), scratch.take(3 * size),
                    scratch.take(3 * shape.components * kLanes)};
  for (int64_t i = 0; i < 3 * shape.components * kLanes; ++i) stage.d_bias[i] = 0;
  const vf log_scale_min = set1(shape.log_scale_min);
  for (int64_t begin = first; begin < last; begin += kGradientBlock) {
    const int64_t count = last - begin < kGradientBlock ? last - begin : kGradientBlock;
    const float* target = args.target + begin * args.target_stride + tile.first_dim;
    recompute(begin, count, [&](int64_t k, int64_t w, vf logit, vf mean, vf log_scale) {
      const vf x = load_part(target + w * args.target_stride, tile.dims);
      float* out = stage.d_out + w * stage.step() + k * 3 * kLanes;
      vf by_mean, by_log_scale;
      store(stage.density + (w * shape.components + k) * kLanes,
            log_component_with_gradient(x, logit, mean, log_scale, log_scale_min, &by_mean, &by_log_scale));
      store(out, logit);
      store(out + kLanes, by_mean);
      store(out + 2 * kLanes, by_log_scale);
    });
    output_gradients(shape, tile, args, begin, count, stage,
                     values == nullptr ? nullptr : values + (begin - first) * kLanes);
    weight_gradients(shape, tile, stage, all.data + (begin - first) * all.stride, all.stride, count, begin == 0,
                     args.d_weight);
    hidden_gradients(shape, tile, args, stage, count, d_hidden + (begin - first) * whole_vectors(tile.prefix) * kLanes);
  }
  for (int64_t k = 0; k < shape.components; ++k) {
    for (int64_t p = 0; p < 3; ++p) {
      for (int64_t lane = 0; lane < tile.dims; ++lane) {
        float& sum = args.d_bias[(p * shape.dims + tile.first_dim + lane) * shape.components + k];
        const float more = stage.d_bias[(k * 3 + p) * kLanes + lane];
        sum = first == 0 ? more : sum + more;
      }
    }
  }
}

template <bool Pairs>
PYASD_APART void backward_of_packed(const MixtureShape& shape, const MixtureTile& tile, const MixtureBackwardArgs& args,
                                    int64_t first, int64_t last, float* d_hidden, float* values, Scratch scratch) {
  const Hidden all = hidden_rows(shape, args.hidden, args.hidden_stride, first, last,
                                 scratch.take(hidden_scratch(shape, last - first)));
  const int64_t component = component_size(product_steps(shape, tile.prefix));
  backward(shape, tile, args, first, last, d_hidden, values, scratch, all,
           [&](int64_t begin, int64_t count, const auto& emit) {
             for (int64_t k = 0; k < shape.components; ++k) {
               outputs<Pairs>(args.packed + tile.packed + k * component, tile.prefix,
                              all.factor + (begin - first) * all.factor_stride, all.factor_stride, count,
                              [&](int64_t w, vf logit, vf mean, vf log_scale) { emit(k, w, logit, mean, log_scale); });
             }
           });
}

static void mixture_backward(const MixtureShape& shape, const MixtureTile& tile, const MixtureBackwardArgs& args,
                             int64_t first, int64_t last, float* d_hidden, float* values, void* memory) {
  const Scratch scratch{static_cast<float*>(memory)};
  if (in_pairs(shape)) return backward_of_packed<kPairs>(shape, tile, args, first, last, d_hidden, values, scratch);
  backward_of_packed<false>(shape, tile, args, first, last, d_hidden, values, scratch);
}
