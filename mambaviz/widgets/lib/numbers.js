// Numbers as text, and the few functions that Math lacks.

const MINUS = "\u2212";

/** A number with `digits` significant digits, as the book prints it. */
export function format(value, digits = 3) {
  if (value === 0) return "0";
  if (!Number.isFinite(value)) {
    return Number.isNaN(value) ? "undefined" : value > 0 ? "∞" : `${MINUS}∞`;
  }
  const size = Math.abs(value);
  let text;
  if (size >= 1e6 || size < 1e-4) {
    const [mantissa, power] = value.toExponential(digits - 1).split("e");
    const raised = [...String(Number(power))]
      .map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]))
      .join("");
    text = `${Number(mantissa)}·10${raised}`;
  } else {
    const places = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
    text = String(Number(value.toFixed(Math.min(places, 8))));
  }
  return text.replace("-", MINUS);
}

/** A share of one as per cent, never rounded to a false 0 % or 100 %. */
export function percent(share) {
  if (share > 0 && share < 0.001) return "under 0.1 %";
  if (share < 1 && share > 0.999) return "over 99.9 %";
  return `${format(100 * share, share < 0.1 ? 2 : 3)} %`;
}

/** A typed number: a decimal comma and a true minus sign are fine. */
export function parseNumber(text) {
  const plain = String(text).trim().replace(/\u2212/g, "-").replace(",", ".");
  return plain === "" ? NaN : Number(plain);
}

/** `value` kept within `low` and `high`. */
export function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}
