// The knobs' limits, as mambaviz/widgets/traits.py describes them.

/** A knob's value made ready for the model, or the reason why it is not. */
export function accept(name, knob, value) {
  const say = (wanted) => ({
    refusal: `${knob.label || name} must be ${wanted}; this was ${show(value)}.`,
  });
  if (knob.kind === "choice") {
    return typeof value === "string" && Object.hasOwn(knob.options, value)
      ? { value }
      : say(`one of ${Object.keys(knob.options).join(", ")}`);
  }
  const inside = (n) =>
    typeof n === "number" && Number.isFinite(n) && n >= knob.low && n <= knob.high;
  const range = `from ${format(knob.low)} to ${format(knob.high)}`;
  if (knob.kind === "series") {
    const fits =
      Array.isArray(value) &&
      value.length >= knob.shortest &&
      value.length <= knob.longest &&
      value.every(inside);
    return fits
      ? { value }
      : say(`${knob.shortest} to ${knob.longest} numbers ${range}`);
  }
  if (!inside(value) || (knob.integer && value % knob.step !== 0)) {
    const whole = knob.step > 1 ? `multiple of ${knob.step}` : "whole number";
    return say(`a ${knob.integer ? whole : "number"} ${range}`);
  }
  return { value };
}

function show(value) {
  if (typeof value === "number") return format(value, 6);
  const text = Array.isArray(value) ? `[${value.join(", ")}]` : String(value);
  return text.length > 60 ? `${text.slice(0, 57)}…` : text;
}

// A slider walks in this many equal strides, on the knob's own scale.
const STRIDES = 240;

/** How a quantity's values lie on its slider, whose own range is integers. */
export function strides(knob) {
  if (knob.integer) {
    const { step } = knob;
    return {
      low: knob.low / step,
      high: knob.high / step,
      at: (value) => value / step,
      value: (stride) => step * Math.round(stride),
    };
  }
  const log = knob.scale === "log";
  const sign = log && knob.high < 0 ? -1 : 1;
  const to = log ? (v) => sign * Math.log(sign * v) : (v) => v;
  const from = log ? (u) => sign * Math.exp(sign * u) : (u) => u;
  const [first, last] = [to(knob.low), to(knob.high)];
  const value = (stride) => {
    if (stride <= 0) return knob.low;
    if (stride >= STRIDES) return knob.high;
    const exact = from(first + ((last - first) * stride) / STRIDES);
    // Three digits are what the reader sees, so they are what holds.
    const rounded = log
      ? Number(exact.toPrecision(3))
      : Number(exact.toPrecision(6));
    return clamp(rounded, knob.low, knob.high);
  };
  return {
    low: 0,
    high: STRIDES,
    at: (v) => Math.round((STRIDES * (to(v) - first)) / (last - first)),
    value,
  };
}
