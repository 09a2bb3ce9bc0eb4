// The five rules that turn h' = A h + x into steps, for one complex A.
// A complex number is the array [re, im].

/** The product of two complex numbers. */
export function complexProduct([a, b], [c, d]) {
  return [a * c - b * d, a * d + b * c];
}

/** The quotient of two complex numbers; not finite when the second is 0. */
export function complexQuotient([a, b], [c, d]) {
  const size = c * c + d * d;
  return [(a * c + b * d) / size, (b * c - a * d) / size];
}

/** e^z for a complex z. */
export function complexExp([re, im]) {
  const size = Math.exp(re);
  return [size * Math.cos(im), size * Math.sin(im)];
}

/**
 * (e^z − 1) / z for a complex z, which is 1 at z = 0. Near 0, where e^z − 1
 * loses its digits, it is the series 1 + z/2 (1 + z/3 (1 + …)).
 */
export function phi1([re, im]) {
  if (Math.hypot(re, im) < 0.5) {
    let sum = [1, 0];
    for (let k = 16; k > 1; k--) {
      const [a, b] = complexProduct([re / k, im / k], sum);
      sum = [1 + a, b];
    }
    return sum;
  }
  // e^z − 1 = (e^re − 1) cos im − 2 sin²(im/2) + i e^re sin im
  const half = Math.sin(im / 2);
  const real = Math.expm1(re) * Math.cos(im) - 2 * half * half;
  return complexQuotient([real, Math.exp(re) * Math.sin(im)], [re, im]);
}

/**
 * A_bar and B_bar of A = `re` + i `im`, B = 1 and a step `delta`, after
 * "zoh", "mamba", "bilinear", "backward_euler" or "euler".
 */
export function discretize(rule, re, im, delta) {
  const z = [delta * re, delta * im]; // ΔA
  const step = [delta, 0];
  const plus = (share) => [1 + share * z[0], share * z[1]]; // 1 + share ΔA
  const [A_bar, B_bar] = {
    zoh: () => [complexExp(z), complexProduct(phi1(z), step)],
    mamba: () => [complexExp(z), step],
    bilinear: () => [plus(0.5), step].map((top) => complexQuotient(top, plus(-0.5))),
    backward_euler: () => [[1, 0], step].map((top) => complexQuotient(top, plus(-1))),
    euler: () => [plus(1), step],
  }[rule]();
  return { A_bar, B_bar };
}
