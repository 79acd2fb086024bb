// What the recorder knows: the plot of a field of all siblings, an hour of it for sparklines, and
// what people did.

import { html } from "./html.js"
import { useEffect, useRef, useState } from "preact/hooks"
import { changed, complain, families, listeners, model, now, rpc, useModel, watch, units } from "./model.js"
import { clock, count, family, label, plain, signed, stamp } from "./format.js"
import { alarmMarks, HandOver, Shape } from "./alarms.js"

const RANGES = { "15 min": 900, "1 h": 3600, "12 h": 43200, "3 d": 259200 }
const HOUR = "1 h", POINTS = 300, MAX_LINES = 12
const COLOURS = ["#56b4e9", "#2fbf9b", "#f0e442", "#e69f00", "#cc79a7", "#b0b8c4"]
const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]]
const REDS = ["#ff5a4a", "#ff8a70", "#d03c30", "#ffb3a3", "#c8483a", "#ff7a66"]
const MAX_NOTES = 200, SHOWN_NOTES = 7

const recorded = (field) => field.path[1] === "target" ? field.path.join(".") : null
const nameOf = (device, name) => `${device.name}.${recorded(device.fields[name]) ?? name}`

async function ask(device, name, range) {
  if (model.replay) return [] // the recorder knows the night, but is not asked: the line grows as it is replayed
  const end = Date.now(), start = end - RANGES[range] * 1000
  const found = await rpc("recorder", "history", [nameOf(device, name)], { start, end, points: POINTS })
  const values = found.mean ?? []
  const step = (end - start) / POINTS
  const points = []
  found.time.forEach((time, i) => {
    if (i && time - found.time[i - 1] > Math.max(4 * step, 30000)) points.push([(found.time[i - 1] + time) / 2, null])
    points.push([time, values[i]])
  })
  return points
}

// --- lines: points of a field, kept up to date by the samples that are heard -----------------------

const lines = new Map()

function line(device, name, range) {
  const key = `${device.name}.${name} ${range}`
  let found = lines.get(key)
  if (!found) {
    found = { key, device, name, range, points: null, used: 0 }
    lines.set(key, found)
    found.stop = watch(device.key, () => append(found))
    load(found)
  }
  found.used = performance.now()
  return found
}

async function load(one) {
  try {
    one.points = await ask(one.device, one.name, one.range)
    one.failed = ""
    append(one)
  } catch (error) {
    one.failed = error.message
  }
  changed("lines", ...(one.range === HOUR ? [one.device.key] : []))
}

// Add the newest sample. Points nearer than the plot can show replace each other.
function append({ device, name, range, points }) {
  const time = Date.parse(device.sample?.timestamp ?? "")
  if (!points || !time || !device.fields[name]) return
  const value = device.connection === "online" ? device.value(name) : null
  const last = points.at(-1), step = RANGES[range] * 1000 / POINTS
  if (last && time < last[0] - 60000 && model.replay) points.length = 0 // it began again
  else if (last && time <= last[0]) return
  if (points.length > 1 && time - points.at(-2)[0] < step && last[1] !== null) points[points.length - 1] = [time, value]
  else points.push([time, value])
  while (points[0]?.[0] < now() - RANGES[range] * 1000) points.shift()
}

// Points [time, value] of the last hour, or null while they are not there.
export const hourOf = (device, name) => line(device, name, HOUR).points

listeners.push(() => {
  for (const one of lines.values()) load(one)
  loadNotes()
})

// --- the plot ---------------------------------------------------------------------------------------------

const shown = { device: null, name: "", range: HOUR }

export function show(device, name) {
  Object.assign(shown, { device, name })
  changed("plot")
  document.querySelector("[data-testid=history]")?.scrollIntoView({ block: "nearest" })
}

// The same field of all devices of the kind, and all channels of it.
function siblings({ device, name }) {
  const same = model.devicesInOrder.filter((other) => other.kind === device.kind && other.about)
  const alike = (other) => families(other).find(({ channels }) => channels.includes(name))?.channels ?? []
  const found = same.flatMap((other) => (name in other.fields ? alike(other) : []).map((each) => [other, each]))
  return found.slice(0, MAX_LINES)
}

const titleOf = ([device, name], all) => all.some(([other]) => other !== device)
  ? device.name + (all.filter(([other]) => other === device).length > 1 ? ` ${name.slice(family(name).length)}` : "") : label(name)

export function History() {
  useModel("plot", "described", "lines", "tick")
  const box = useRef(), plot = useRef(null)
  const [cursor, setCursor] = useState(null)
  const red = document.body.classList.contains("red")
  if (!shown.device) {
    const first = model.devicesInOrder.find((device) => device.place === "head") ?? model.devicesInOrder[0]
    const name = Object.keys(first?.fields ?? {}).find((one) => first.fields[one].type === "number")
    if (name) Object.assign(shown, { device: first, name })
  }
  const all = shown.device ? siblings(shown) : []
  const found = all.map(([device, name]) => line(device, name, shown.range))
  const field = shown.device?.fields[shown.name]
  const kind = `${all.map(([device, name]) => `${device.name}.${name}`)} ${shown.range} ${red}`
  const ready = found.length > 0 && found.every((one) => one.points)
  useEffect(() => {
    if (!ready) return
    plot.current?.destroy()
    plot.current = new window.uPlot(options(box.current, all, field, red, setCursor), data(found), box.current)
    return () => { plot.current?.destroy(); plot.current = null }
  }, [kind, ready])
  useEffect(() => { if (ready) plot.current?.setData(data(found)) })
  useEffect(() => {
    const resize = new ResizeObserver(([{ contentRect }]) => plot.current?.setSize(contentRect))
    resize.observe(box.current)
    return () => resize.disconnect()
  }, [])
  const failed = found.find((one) => one.failed)?.failed
  return html`<section class="card history" data-testid="history" aria-label="History">
    <header><h2>${field ? label(family(shown.name)) : "history"} ${field?.unit && html`<small>${units(field.unit)}</small>`}</h2>
      <div class="ranges" role="group" aria-label="range">${Object.keys(RANGES).map((range) => html`<button key=${range}
        aria-pressed=${shown.range === range} onClick=${() => { shown.range = range; changed("plot") }}>${range}</button>`)}</div></header>
    <div class="plot" role="img" aria-label=${`plot of ${label(shown.name)}${told(all)}`}><div ref=${box}></div>
      ${!ready && html`<p class="muted">${failed || (shown.device ? "asking the recorder…" : "")}</p>`}</div>
    <ul class="legend">${all.map((one, i) => html`<li key=${one[0].name + one[1]}>
      <svg width="22" height="8" aria-hidden="true"><line x1="0" x2="22" y1="4" y2="4" stroke=${colour(i, red)} stroke-width="2" stroke-dasharray=${dash(i).join()} /></svg>
      ${titleOf(one, all)} <b>${plain(cursor === null ? one[0].value(one[1]) : cursor.values[i], field, model.instrument.units)}</b></li>`)}
      <li class="muted">${cursor === null ? "now" : clock(cursor.time)}</li>
      ${told(all) && html`<li class="muted marks"><span aria-hidden="true">▼</span> command <${Shape} severity="ERR" />alarm</li>`}</ul>
  </section>`
}

// How many commands and alarms are marked, for those who cannot see it.
function told(all) {
  const kinds = marksOf(all.filter(([device]) => device.about)).map(({ kind }) => kind)
  const commands = kinds.filter((kind) => kind === "command").length
  return kinds.length ? `, with ${count(commands, "command")} and ${count(kinds.length - commands, "alarm")}` : ""
}

const colour = (i, red) => (red ? REDS : COLOURS)[i % COLOURS.length]
const dash = (i) => DASHES[Math.floor(i / COLOURS.length) % DASHES.length]

function data(found) {
  return window.uPlot.join(found.map(({ points }) => [points.map(([time]) => time / 1000), points.map(([, value]) => value)]))
}

function options(box, all, field, red, setCursor) {
  const style = getComputedStyle(document.body)
  const [text, grid] = ["--muted", "--line"].map((name) => style.getPropertyValue(name))
  const axis = { stroke: text, font: "12px Inter", grid: { stroke: grid, width: 1 }, ticks: { show: false } }
  const log = field.scale === "log"
  const least = 20 * 10 ** -(field.digits ?? 2) // noise must not fill the plot
  return {
    width: box.clientWidth, height: box.clientHeight, tzDate: (seconds) => window.uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    padding: [14, 64, 0, 0], legend: { show: false },
    scales: {
      x: { range: () => [now() / 1000 - RANGES[shown.range], now() / 1000] },
      y: log ? { distr: 3, range: (_, low, high) => low > 0 ? [low / 1.5, high * 1.5] : [1e-6, 1] } : { range: (_, low, high) => {
        if (low === null) return [0, 1]
        const margin = Math.max((high - low) * 0.1, (least - (high - low)) / 2, 0)
        return [low - margin, high + margin]
      } },
    },
    axes: [{ ...axis, values: times }, { ...axis, size: 64, values: (_, ticks, __, ___, step) => ticks.map((tick) => tick === null ? "" : ticked(tick, field, step)) }],
    series: [{}, ...all.map((one, i) => ({ label: titleOf(one, all), stroke: colour(i, red), dash: dash(i), width: 1.6, points: { show: false } }))],
    cursor: { y: false, points: { size: 7 } },
    hooks: {
      draw: [(plot) => { drawMarks(plot, all, style); drawNames(plot, all, red) }],
      setCursor: [({ cursor: { idx }, data }) => setCursor(idx === null || idx === undefined ? null
        : { time: data[0][idx] * 1000, values: all.map((_, i) => nearest(data[i + 1], idx)) })],
    },
  }
}

const ticked = (tick, { scale }, step) => {
  if (scale === "log") return Number.isInteger(Math.log10(tick)) ? `1e${signed(String(Math.log10(tick)))}` : ""
  const [, decimals = "", power = 0] = /^\d+(?:\.(\d+))?(?:e-(\d+))?$/.exec(String(step)) ?? []
  return signed(tick.toFixed(decimals.length + Number(power)))
}

const times = (_, ticks) => ticks.map((tick, i) => {
  const iso = new Date(tick * 1000).toISOString()
  return RANGES[shown.range] > 86400 ? iso.slice(5, 16).replace("T", " ") : iso.slice(11, 16)
})

// Times of the lines differ a little: take the value just before.
function nearest(values, at) {
  for (let i = at; i >= 0 && i > at - 10; i--) if (values[i] !== undefined) return values[i]
  return null
}

// The name of each line, at its end: nobody needs to compare colours.
function drawNames(plot, all, red) {
  const { ctx, bbox } = plot, ratio = devicePixelRatio
  const ends = all.map((one, i) => ({ title: titleOf(one, all), i, value: nearest(plot.data[i + 1], plot.data[0].length - 1) }))
    .filter(({ value }) => value !== null).map((one) => ({ ...one, y: plot.valToPos(one.value, "y", true) })).sort((a, b) => a.y - b.y)
  const apart = 13 * ratio
  ends.forEach((one, i) => { if (i) one.y = Math.max(one.y, ends[i - 1].y + apart) })
  ends.reverse().forEach((one, i) => { one.y = Math.min(one.y, i ? ends[i - 1].y - apart : bbox.top + bbox.height) })
  ctx.save()
  ctx.font = `${12 * ratio}px Inter`
  ctx.textBaseline = "middle"
  ctx.textAlign = "left"
  for (const { title, i, y } of ends) {
    ctx.fillStyle = colour(i, red)
    ctx.fillText(title, bbox.left + bbox.width + 6 * ratio, y)
  }
  ctx.restore()
}

// When somebody commanded what is shown, or one of its sources, and when these raised an alarm.
function marksOf(all) {
  const concerned = new Set(all.flatMap(([device]) => [device.name, ...device.about.sources]))
  const start = now() - RANGES[shown.range] * 1000
  const wanted = ({ device, time }) => concerned.has(device) && Date.parse(time) > start
  const raised = alarmMarks().map(({ alarm, at, severity }) => ({ device: alarm.split(".")[0], time: at, kind: severity }))
  return [...notes.map(({ device, time }) => ({ device, time, kind: "command" })), ...raised].filter(wanted)
}

function drawMarks(plot, all, style) {
  const { ctx, bbox } = plot, ratio = devicePixelRatio
  ctx.save()
  ctx.setLineDash([3 * ratio, 3 * ratio])
  for (const { time, kind } of marksOf(all)) {
    const x = plot.valToPos(Date.parse(time) / 1000, "x", true)
    const [colour, shape] = MARKS[kind]
    ctx.strokeStyle = ctx.fillStyle = style.getPropertyValue(colour)
    ctx.globalAlpha = 0.5
    ctx.beginPath()
    ctx.moveTo(x, bbox.top)
    ctx.lineTo(x, bbox.top + bbox.height)
    ctx.stroke()
    ctx.globalAlpha = 1
    ctx.beginPath()
    for (const [right, up] of shape) ctx.lineTo(x + right * ratio, bbox.top - up * ratio)
    ctx.fill()
  }
  ctx.restore()
}

const MARKS = { // colour, and the corners of the shape: right of the line, and above the plot
  command: ["--accent", [[-5, 9], [5, 9], [0, 1]]],
  WARN: ["--warn", [[-5, 1], [5, 1], [0, 10]]],
  ERR: ["--err", [[0, 0], [5, 5.5], [0, 11], [-5, 5.5]]],
}

// --- what people did --------------------------------------------------------------------------------------------

let notes = []
let notesFailed = ""

async function loadNotes() {
  if (model.replay) {
    notesFailed = "commands are not replayed"
    return sortNotes()
  }
  try {
    let found = [], asked = { last: "12h" }
    while (asked) { // the oldest come first, and of many only some at once
      const page = await rpc("recorder", "commands", [], asked)
      found = [...found, ...page.commands].slice(-MAX_NOTES)
      asked = page.next && { start: page.next }
    }
    const known = new Set(notes.map((note) => note.device + note.time + note.what))
    notes = [...notes, ...found.filter((note) => !known.has(note.device + note.time + note.what))]
    notesFailed = ""
  } catch (error) {
    notesFailed = error.message
  }
  sortNotes()
}

function sortNotes() {
  notes = notes.sort((a, b) => (a.time < b.time ? 1 : -1)).slice(0, MAX_NOTES)
  changed("notes")
}

listeners.push((session) => {
  session.subscribe("hipercam..command", (note) => {
    if (typeof note?.time !== "string" || typeof note.what !== "string") return
    notes.push(note)
    sortNotes()
  }, { match: "wildcard" }).catch(complain)
})

const argument = (value) => { const text = JSON.stringify(value) ?? ""; return text.length > 40 ? `${text.slice(0, 38)}…` : text }

export function Log() {
  useModel("notes")
  const [all, setAll] = useState(false)
  const found = all ? notes : notes.slice(0, SHOWN_NOTES)
  return html`<section class="card log" aria-label="What people did" data-testid="log"><header><h2>What people did</h2><${HandOver} /></header>
    ${!found.length && html`<p class="muted">${notesFailed || "nothing in the last 12 hours"}</p>`}
    <ol>${found.map((note) => html`<li key=${note.time + note.device + note.what} class=${note.error ? "failed" : ""}>
      <time datetime=${note.time}>${stamp(note.time)}</time>
      <span><b>${note.device}</b> ${note.what.replace(/^.*\./, "")}(${[...(note.args ?? []).map(argument),
        ...Object.entries(note.kwargs ?? {}).map(([name, value]) => `${name}=${argument(value)}`)].join(", ")})
        ${note.why && html` <q>${note.why}</q>`}
        ${note.error && html`<em>${note.error}</em>`}</span>
      <small>${note.who ?? "?"}</small></li>`)}</ol>
    ${notes.length > SHOWN_NOTES && html`<button class="more" onClick=${() => setAll(!all)}>${all ? "fewer" : `${notes.length - SHOWN_NOTES} more`}</button>`}
  </section>`
}
