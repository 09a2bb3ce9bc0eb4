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
    const { shortest, longest } = knob;
    const count = shortest === longest ? longest : `${shortest} to ${longest}`;
    return fits ? { value } : say(`${count} numbers ${range}`);
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

// A slider has at most so many places to stand at.
const PLACES = 300;

/**
 * Where a quantity's slider may stand, whose own range is integers: at both
 * bounds, and between them at round numbers, about evenly on the knob's scale.
 */
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
  const values = placesOf(knob);
  const last = values.length - 1;
  return {
    low: 0,
    high: last,
    at: (value) => nearest(values, value),
    value: (stride) => values[clamp(Math.round(stride), 0, last)],
  };
}

/** 1, 2 or 5 times a power of ten, by its number: 0 is 1, 3 is 10, −1 is 0.5. */
function roundStep(n) {
  const power = Math.floor(n / 3);
  return Number(`${[1, 2, 5][n - 3 * power]}e${power}`);
}

/** The finest round places of which there are not too many. */
function placesOf({ low, high, scale }) {
  const between = scale === "log" ? logPlaces : linearPlaces;
  let fineness = Math.floor(3 * Math.log10((high - low) / PLACES)) - 12;
  for (;;) {
    const values = between(low, high, fineness++);
    if (values && values.length <= PLACES) return [low, ...values, high];
  }
}

/** The multiples of one step inside the bounds; null if far too many. */
function linearPlaces(low, high, fineness) {
  const step = roundStep(fineness);
  const [first, end] = [Math.floor(low / step + 1e-9) + 1, Math.ceil(high / step - 1e-9)];
  if (end - first > PLACES) return null;
  return Array.from({ length: Math.max(0, end - first) }, (_, n) => Number(((first + n) * step).toPrecision(9)));
}

/** In every decade one step from 1 to 2, a wider one to 5, the next to 10. */
function logPlaces(low, high, fineness) {
  if (high < 0) return logPlaces(-high, -low, fineness)?.reverse().map((value) => -value);
  const values = [];
  for (let n = 3 * Math.floor(Math.log10(low)); roundStep(n) < high; n++) {
    const part = linearPlaces(roundStep(n), roundStep(n + 1), fineness + n);
    if (!part || values.length > PLACES) return null;
    values.push(roundStep(n), ...part);
  }
  return values.filter((value) => value > low && value < high);
}

/** The place of the value that is nearest in a rising list. */
function nearest(values, value) {
  const above = values.findIndex((place) => place >= value);
  if (above < 1) return above < 0 ? values.length - 1 : 0;
  return value - values[above - 1] < values[above] - value ? above - 1 : above;
}
