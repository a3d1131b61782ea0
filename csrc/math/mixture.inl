// A mixture of Gaussians for one output dimension per lane. Included inside a namespace that has vf and elementary.inl.
//
//   log p(x) = logsumexp_k(l_k + d_k) - logsumexp_k(l_k) - log(2 pi) / 2,   d_k = -s_k - z_k^2 / 2,
//   z_k = (x - m_k) exp(-s_k),   s_k = max(raw_s_k, log_scale_min)
//
// and, with r_k = softmax_k(l_k + d_k) and pi_k = softmax_k(l_k), times the incoming gradient g:
//
//   dl_k = r_k - pi_k,   dm_k = r_k z_k exp(-s_k),   ds_k = r_k (z_k^2 - 1) [raw_s_k >= log_scale_min],
//   dx = -sum dm_k

constexpr float kHalfLog2Pi = 0.918938533204672742f;

// l_k + d_k, the logarithm of a component's weighted density but for the constant.
PYASD_INLINE vf log_component(vf x, vf logit, vf mean, vf raw_log_scale, vf log_scale_min) {
  const vf log_scale = at_least(raw_log_scale, log_scale_min);
  const vf z = (x - mean) * exp_(set1(0.0f) - log_scale);
  return fnma(z * set1(0.5f), z, logit - log_scale);
}

// The same, with what the gradients need: by_mean = z exp(-s), by_log_scale = (z^2 - 1) [raw_s >= min].
PYASD_INLINE vf log_component_with_gradient(vf x, vf logit, vf mean, vf raw_log_scale, vf log_scale_min, vf* by_mean,
                                            vf* by_log_scale) {
  const vf log_scale = at_least(raw_log_scale, log_scale_min);
  const vf inverse_scale = exp_(set1(0.0f) - log_scale);
  const vf z = (x - mean) * inverse_scale;
  *by_mean = z * inverse_scale;
  *by_log_scale = fma(z, z, set1(-1.0f)) * one_where_at_least(raw_log_scale, log_scale_min);
  return fnma(z * set1(0.5f), z, logit - log_scale);
}

// What is subtracted before the exponentials: the maximum, or the lowest finite number where that is -infinity.
PYASD_INLINE vf finite_shift(vf maximum) { return at_least(maximum, set1(-3.4028235e38f)); }

// log p(x) from the maxima of l_k and l_k + d_k and the sums of the exponentials of the differences to them.
PYASD_INLINE vf log_mixture(vf max_logit, vf sum_logit, vf max_component, vf sum_component) {
  vf e_component, e_logit;
  const vf m = log_mantissa(sum_component, &e_component) - log_mantissa(sum_logit, &e_logit);
  const vf log_ratio = fma(e_component - e_logit, set1(0.693147180559945309f), m);
  // the sums are NaN when an input was: adding them times zero keeps that without a blend
  return (max_component - max_logit) + (log_ratio - set1(kHalfLog2Pi)) + set1(0.0f) * (sum_component + sum_logit);
}
