/* A step of Adam (Kingma and Ba 2015), element by element, in float32. */
#include <math.h>
#include <stddef.h>

/* p is the parameter, g its gradient, m and v the running averages of the gradient and of its square, all of shape[0]
 * values. Options: lr / (1 - beta1^n) after n steps, beta1, beta2, 1 / sqrt(1 - beta2^n), epsilon; the weight decay
 * that is added to the gradient; the factor of the parameter by decoupled decay. Returns 0. */
int adam(const ptrdiff_t *shape, const float *options, const float *g, float *p, float *m, float *v) {
  const float step = options[0], beta1 = options[1], beta2 = options[2], correction = options[3];
  const float epsilon = options[4], decay = options[5], shrink = options[6];
  for (ptrdiff_t i = 0; i < shape[0]; i++) {
    const float gradient = g[i] + decay * p[i];
    m[i] = beta1 * m[i] + (1 - beta1) * gradient;
    v[i] = beta2 * v[i] + (1 - beta2) * gradient * gradient;
    p[i] = shrink * p[i] - step * m[i] / (sqrtf(v[i]) * correction + epsilon);
  }
  return 0;
}
