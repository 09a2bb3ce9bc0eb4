// Small matrices as arrays of rows, and the Legendre memory made of them.

/** M N. */
export function matrixProduct(M, N) {
  return M.map((row) => {
    const sums = new Array(N[0].length).fill(0);
    row.forEach((left, k) => {
      if (left) for (let j = 0; j < sums.length; j++) sums[j] += left * N[k][j];
    });
    return sums;
  });
}

/** M v. */
export function matrixVector(M, v) {
  return M.map((row) => {
    let sum = 0;
    for (let k = 0; k < v.length; k++) sum += row[k] * v[k];
    return sum;
  });
}

/** e^M: the series of M / 2^s, which is small, squared s times. */
export function matrixExp(M) {
  const size = Math.hypot(...M.flat());
  const s = Math.max(0, Math.ceil(Math.log2(4 * size)));
  const small = M.map((row) => row.map((value) => value / 2 ** s));
  const one = (n) => small.map((_, k) => (k === n ? 1 : 0));
  // 1 + M (1 + M/2 (1 + M/3 (1 + …)))
  let sum = small.map((_, n) => one(n));
  for (let k = 14; k > 0; k--) {
    sum = matrixProduct(small, sum).map((row, n) =>
      row.map((value, j) => value / k + (j === n ? 1 : 0)),
    );
  }
  for (let k = 0; k < s; k++) sum = matrixProduct(sum, sum);
  return sum;
}

/** A_bar and B_bar by zero-order hold of a matrix A, as e^(Δ [[A, B], [0, 0]]). */
export function discretizeMatrix(A, B, delta) {
  const n = B.length;
  const both = A.map((row, k) => [...row, B[k]].map((value) => delta * value));
  const found = matrixExp([...both, new Array(n + 1).fill(0)]).slice(0, n);
  return { A_bar: found.map((row) => row.slice(0, n)), B_bar: found.map((row) => row[n]) };
}

/** The N orthonormal Legendre polynomials on [0, 1], at one point r. */
export function legendreBasis(N, r) {
  const z = 2 * r - 1;
  const P = [1, z];
  for (let n = 1; n < N - 1; n++) P.push(((2 * n + 1) * z * P[n] - n * P[n - 1]) / (n + 1));
  return P.slice(0, N).map((value, n) => Math.sqrt(2 * n + 1) * value);
}

/** The nodes and weights of Gauss and Legendre on [0, 1], by Newton's steps. */
export function gaussPoints(count) {
  return Array.from({ length: count }, (_, k) => {
    let z = -Math.cos((Math.PI * (k + 0.75)) / (count + 0.5));
    let slope = 1;
    for (let step = 0; step < 8; step++) {
      let [before, P] = [1, z];
      for (let n = 1; n < count; n++) [before, P] = [P, ((2 * n + 1) * z * P - n * before) / (n + 1)];
      slope = (count * (z * P - before)) / (z * z - 1);
      z -= P / slope;
    }
    return { node: (1 + z) / 2, weight: 1 / ((1 - z * z) * slope * slope) };
  });
}

/**
 * One exact step of LegS, as `legs_transition` of mambaviz.theory has it:
 * `kept` · the integral of φₙ(kept r) φₖ(r). Above 1, a step of −A.
 */
export function legsTransition(N, kept) {
  const points = gaussPoints(N).map(({ node, weight }) => ({
    here: legendreBasis(N, node).map((value) => kept * weight * value),
    there: legendreBasis(N, kept * node),
  }));
  return Array.from({ length: N }, (_, n) =>
    Array.from({ length: N }, (_, k) => {
      if (k > n) return 0;
      let sum = 0;
      for (const { here, there } of points) sum += there[n] * here[k];
      return sum;
    }),
  );
}

/** B_bar of such a step: (I − A_bar) e₀. */
export function legsInput(A_bar) {
  return A_bar.map((row, n) => (n === 0 ? 1 : 0) - row[0]);
}
