// Values, units, names and times as people read them.

export const MINUS = "\u2212"
const SUPERSCRIPT = /^(.*)e([+-])0*(\d+)$/

export const label = (name) => name.replace(/^.*\./, "").replace(/([a-z])([A-Z])/g, "$1 $2")
  .replace(/_/g, " ").replace(/([a-z])(\d+)$/, "$1 $2").toLowerCase()

// A number as {text, power}: on a log scale the power of ten is apart, to be written above the line.
export function written(value, field) {
  if (value === null || value === undefined) return { text: "not read" }
  if (typeof value === "boolean") return { text: value ? "yes" : "no" }
  if (typeof value !== "number") return { text: String(value) }
  const digits = field?.digits ?? 2
  if (field?.scale !== "log") return { text: signed(value.toFixed(digits)) }
  const [, mantissa, sign, power] = SUPERSCRIPT.exec(value.toExponential(digits))
  return { text: `${signed(mantissa)}×10`, power: (sign === "-" ? MINUS : "") + power }
}

export const signed = (text) => (/^-[0.]*$/.test(text) ? text.slice(1) : text.replace("-", MINUS))

export function plain(value, field, units = {}) {
  const { text, power } = written(value, field)
  const unit = value !== null && field?.unit ? ` ${units[field.unit] ?? field.unit}` : ""
  return text + (power ? `^${power}` : "") + unit
}

export function limit(value) {
  return value === null ? "any" : signed(String(Number(value.toPrecision(4))))
}

export function age(seconds) {
  const s = Math.max(0, Math.round(seconds))
  if (s < 60) return `${s} s`
  if (s < 3600) return `${Math.floor(s / 60)} min`
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`
  return `${Math.floor(s / 86400)} d`
}

export const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`
export const clock = (ms) => new Date(ms).toISOString().slice(11, 19)
export const stamp = (iso) => {
  const today = new Date().toISOString().slice(0, 10)
  return iso.startsWith(today) ? iso.slice(11, 19) : `${iso.slice(5, 10)} ${iso.slice(11, 16)}`
}

// Up to four names, or the first three and how many more there are.
export const some = (names) => names.length > 4
  ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more` : names.join(", ")

export const family = (name) => name.replace(/\d+$/, "")
