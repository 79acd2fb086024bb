// Alarms: the causes of what the devices report, or, where the alarm system runs, its records; their
// rows, the verdict of the whole instrument, and sound.

import { html } from "./html.js"
import { useState } from "preact/hooks"
import { changed, complain, listeners, may, model, now, rpc, useModel, watch } from "./model.js"
import { age, count, family, some, stamp } from "./format.js"
import { open } from "./dialogs.js"

const SERVER = "alarms" // the device of the alarm system, if the instrument has one
const SILENT_AFTER = 15000 // it publishes every 5 s
const NUMBER = /(?<![\w.])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\w|\.\d)/g
const SHOWN = 3
const RANK = { active: 0, returned: 1, acknowledged: 2 }
const RAISED = ["raised", "worse"]
const COUNTED = ["errors", "warnings", "acknowledged", "returned", "shelved", "suppressed", "out_of_service"]
const SHAPES = { ERR: ["◆", "error"], WARN: ["▲", "warning"] }

// --- causes, as in the live view of the terminal -------------------------------------------------

// Return the alarm that an alarm of a view repeats, or itself, as "device.field".
function causeOf(device, field, present) {
  const own = `${device.name}.${field}`
  const sources = device.about?.sources ?? []
  if (!sources.length || field === "connection") return own
  const shown = device.fields[field]
  const origins = shown ? [shown.source] : sources.map((source) => [source, field])
  for (const [source, name] of origins) {
    for (const there of [`${source}.connection`, `${source}.${name}`]) {
      if (present.has(there)) return there
    }
  }
  return own
}

// Return a row for each cause: errors first, then in the order of the instrument file.
export function causes(devices) {
  const alarms = devices.flatMap((device) => (device.sample?.alarms ?? [])
    .map((alarm) => ({ ...alarm, device, key: `${device.name}.${alarm.field}` })))
  const present = new Set(alarms.map((alarm) => alarm.key))
  const roots = new Map(alarms.map((alarm) => [alarm.key, causeOf(alarm.device, alarm.field, present)]))
  const repeats = (key) => roots.get(key) !== key && roots.get(roots.get(key)) === roots.get(key)
  const rows = new Map(), rowOf = new Map()
  for (const severity of ["ERR", "WARN"]) {
    for (const alarm of alarms) {
      if (alarm.severity !== severity || repeats(alarm.key)) continue
      const pattern = alarm.reason.replace(NUMBER, "#")
      const alike = `${severity} ${pattern} ${pattern === alarm.reason ? "" : family(alarm.field)}`
      const row = rows.get(alike)
        ?? { key: alarm.key, severity, names: [], also: [], state: "active", reason: alarm.reason }
      rows.set(alike, row)
      if (!rowOf.has(alarm.key)) rowOf.set(alarm.key, row)
      if (!row.names.includes(alarm.key)) row.names.push(alarm.key)
      note(row, alarm)
    }
  }
  for (const alarm of alarms) {
    if (!repeats(alarm.key)) continue
    const row = rowOf.get(roots.get(alarm.key))
    if (!row.also.includes(alarm.device.name)) row.also.push(alarm.device.name)
    note(row, alarm)
    if (alarm.severity === "ERR") row.severity = "ERR"
  }
  return [...rows.values()].sort(worstFirst)
}

function note(row, { since }) {
  if (since && (!row.since || since < row.since)) row.since = since
}

const worstFirst = (a, b) => (a.severity === "ERR" ? 0 : 1) - (b.severity === "ERR" ? 0 : 1)

// --- the alarm system ----------------------------------------------------------------------------

const records = new Map() // alarm -> what is known of it
let raised = [] // {alarm, at, severity} of the last day, for plots
let handed = null // the last handover that nobody has confirmed
let heard = performance.now()
let seq = null
let listed = false
let counts = ""

const runs = () => model.devices.has(SERVER) && !model.replay
const silent = () => runs() && model.link === "in" && performance.now() - heard > SILENT_AFTER
export const ask = (name, args = [], kwargs = {}) => rpc(SERVER, name, args, kwargs)

async function list() {
  try {
    const found = await ask("list")
    records.clear()
    for (const record of found) records.set(record.alarm, record)
    heard = performance.now()
    listed = true
    changed("alarms")
  } catch {
    // Nobody answers: after a while it counts as silent, which is shown.
  }
}

async function log() {
  try {
    const events = await ask("log", [], { last: "24h" })
    raised = []
    handed = null
    for (const event of events) remember(event)
    changed("alarms", "lines")
  } catch {
    // As above.
  }
}

function remember({ event, alarm, at, severity, by, note }) {
  if (alarm && RAISED.includes(event)) raised.push({ alarm, at, severity })
  if (event === "handover") handed = { by, at, note }
  if (event === "handover_confirmed") handed = null
}

export const alarmMarks = () => raised

listeners.push((session) => {
  if (!runs()) return
  seq = null
  session.subscribe(`hipercam.${SERVER}.changed`, (event) => {
    heard = performance.now()
    const gap = seq !== null && event.seq !== seq + 1
    seq = event.seq
    if (event.alarm && event.state === "normal" && !event.shelved && !event.out_of_service) records.delete(event.alarm)
    else if (event.alarm && event.state) records.set(event.alarm, event)
    remember(event)
    changed("alarms", ...(RAISED.includes(event.event) ? ["lines"] : []))
    if (gap) list()
  }).catch(complain)
  list()
  log()
})

// Its telemetry is its proof of life, and says how many alarms there are.
watch(`device:${SERVER}`, () => {
  const device = model.devices.get(SERVER)
  if (model.replay || device.connection !== "online" || !device.heard) return
  heard = device.heard
  const told = COUNTED.map((name) => JSON.stringify(device.sample[name])).join()
  if (told !== counts) list()
  counts = told
})

const hiding = ({ shelved, suppressed, out_of_service: out }) => Boolean(shelved || suppressed || out)

// Rows of records: those together that came together and are alike, as in `hcam alarms`.
function recorded() {
  const found = new Map()
  for (const record of records.values()) {
    if (!(record.state in RANK) || hiding(record)) continue
    const { alarm, first, severity, state } = record
    const key = [first, alarm.slice(alarm.indexOf(".")), severity, state].join()
    found.set(key, [...(found.get(key) ?? []), record])
  }
  return [...found.values()].map(rowOf)
    .sort((a, b) => worstFirst(a, b) || RANK[a.state] - RANK[b.state] || (a.since < b.since ? -1 : 1))
}

function rowOf(together) {
  const [record] = together.sort((a, b) => (a.since < b.since ? -1 : 1))
  const names = together.map(({ alarm }) => alarm)
  const { state, acknowledged: done, escalated } = record
  const often = Math.max(...together.map(({ count }) => count))
  return {
    key: record.alarm, names, together, state,
    severity: record.severity,
    also: [...records.values()].filter(({ cause }) => names.includes(cause)).map(({ alarm }) => alarm),
    reason: record.reason,
    since: record.since,
    advice: state === "returned" ? "" : record.advice,
    note: [
      state === "returned" && `over at ${stamp(record.cleared)}, nobody saw it`,
      done && `acknowledged by ${done.by} at ${stamp(done.at)}${done.note ? `: ${done.note}` : ""}`,
      often > 2 && `${often} times`,
      escalated && `told to ${escalated}`,
    ].filter(Boolean).join("; "),
  }
}

// All rows, worst first. Without the alarm system these are the devices' own alarms.
export function rows() {
  if (!runs()) return causes(model.devicesInOrder)
  if (listed && !silent()) return recorded()
  const own = causes(model.devicesInOrder)
  if (!silent()) return own
  const since = new Date(Date.now() - (performance.now() - heard)).toISOString()
  const reason = "the alarm system has said nothing since then: nobody watches the instrument but you"
  return [{ key: "alarms.silent", names: ["alarms.silent"], also: [], severity: "ERR", state: "active",
    reason, since, advice: "Start hwalarm again; until then watch the values themselves." }, ...own]
}

// --- the verdict -----------------------------------------------------------------------------------

export function verdict() {
  if (!model.instrument) return { state: "cut", text: "Loading…" }
  if (model.link === "refused") return { state: "cut", text: "The router lets nobody in without a name" }
  if (model.link !== "in") {
    const since = model.heard ? `: what you see is ${age((performance.now() - model.heard) / 1000)} old` : " yet"
    return { state: "cut", text: `No router${since}` }
  }
  const ended = model.replay ? [] : model.instrument.servers
    .filter((server) => model.servers.get(server)?.state !== "running")
  const active = rows().filter((row) => row.state === "active")
  const errors = active.filter((row) => row.severity === "ERR").length
  const warnings = active.length - errors
  const quiet = model.devicesInOrder
    .filter((device) => device.silent && !ended.includes(device.server) && performance.now() > device.silent_after * 1000)
  if (model.replay && quiet.length === model.devices.size) return { state: "warn", text: "Nothing is replayed now" }
  const parts = [
    ended.length && `${some(ended)} not running`,
    quiet.length && !model.replay && `${some(quiet.map((device) => device.name))} silent`,
    errors && count(errors, "alarm"),
    warnings && count(warnings, "warning"),
  ].filter(Boolean)
  const state = ended.length || errors || (quiet.length && !model.replay) ? "err" : warnings ? "warn" : "ok"
  return { state, text: parts.join(", ") || "All is well", number: errors + warnings + ended.length }
}

export function Shape({ severity }) {
  const [shape, word] = SHAPES[severity] ?? []
  return shape && html`<span role="img" aria-label=${word} class=${`shape ${severity}`}>${shape}</span>`
}

// --- rows ----------------------------------------------------------------------------------------------

export function Alarms() {
  useModel("alarms", "session", "tick")
  const [all, setAll] = useState(false)
  const found = rows()
  const more = found.length - SHOWN
  return html`<section class="alarms" aria-label="Alarms">
    ${(all ? found : found.slice(0, SHOWN + (more === 1 ? 1 : 0))).map((row) => html`<${Row} key=${row.key} row=${row} />`)}
    ${more > 1 && html`<button class="more" onClick=${() => setAll(!all)}>${all ? "fewer" : `${more} more`}</button>`}
    ${runs() && html`<${Handover} /><${Hidden} />`}
  </section>`
}

// Do something with the alarms; return what does it, and why it was refused.
function useAsk() {
  const [error, setError] = useState("")
  const send = (calls) => Promise.all(calls).then(() => setError(""), (refused) => setError(refused.message))
  return [send, error && html`<span class="wrong" role="alert">${error}</span>`]
}

function Row({ row }) {
  const [send, error] = useAsk()
  const { key, names: [first, ...others], together, state, severity } = row
  const person = together && may("operator")
  const acknowledge = () => send(together.map(({ alarm, occurrence }) => ask("acknowledge", [alarm, occurrence])))
  const mark = (name) => ({ "data-testid": `alarm:${name}`, "data-severity": severity, "data-state": state })
  return html`<article class=${`alarm ${severity} ${state}`} ...${mark(key)}>
    <${Shape} severity=${severity} />
    <p><b>${first}</b>${others.map((name) => html`${" "}<b key=${name} ...${mark(name)}>${name}</b>`)}
      ${row.also.length > 0 && html`<span class="muted">also ${some(row.also)}</span>`}
      <span class="reason">${row.reason}</span>
      ${row.note && html` <span class="muted">(${row.note})</span>`}
      ${row.advice && html`<span class="advice">${row.advice}</span>`}
      ${error}</p>
    ${row.since && html`<time datetime=${row.since} title=${row.since}>${stamp(row.since)}, ${age((now() - Date.parse(row.since)) / 1000)}</time>`}
    ${person && state !== "acknowledged" && html`<button data-testid=${`ack:${key}`} onClick=${acknowledge}>Acknowledge</button>`}
    ${person && html`<button data-testid=${`shelve:${key}`} onClick=${() => open({ kind: "shelve", row })}>Shelve…</button>`}
    ${person && may("engineer") && html`<button data-testid=${`out-of-service:${key}`}
      onClick=${() => open({ kind: "out-of-service", row })}>Out of service…</button>`}
  </article>`
}

// What the observer before has left to know.
function Handover() {
  const [send, error] = useAsk()
  if (!handed) return null
  const confirm = () => send([ask("handover", [], { confirmed: true })])
  return html`<article class="alarm" data-testid="handover">
    <p><b>${handed.by} hands over</b>${handed.note || "without a note"}${error}</p><time datetime=${handed.at}>${stamp(handed.at)}</time>
    ${may("operator") && html`<button data-testid="confirm-handover" onClick=${confirm}>Confirm</button>`}</article>`
}

// What people have hidden, and what others explain.
function Hidden() {
  const [send, error] = useAsk()
  const all = [...records.values()]
  const out = all.filter((record) => record.out_of_service)
  const shelved = all.filter((record) => record.shelved && !record.out_of_service)
  const explained = all.filter((record) => record.suppressed && !record.shelved && !record.out_of_service && record.state in RANK)
  const told = [out.length && `${out.length} out of service`, shelved.length && `${shelved.length} shelved`,
    explained.length && `${explained.length} explained by others`].filter(Boolean)
  const person = may("operator")
  if (!told.length) return null
  const item = ({ alarm, reason }, text, button) => html`<li key=${alarm}><b>${alarm}</b> ${text} ${button}</li>`
  const back = (alarm, name, text, allowed) => allowed
    && html`<button data-testid=${`${name.replace("_", "-")}:${alarm}`} onClick=${() => send([ask(name, [alarm])])}>${text}</button>`
  return html`<details class="hidden" data-testid="hidden"><summary>Hidden: ${told.join(", ")}</summary><ul>
    ${out.map((record) => item(record, `is out of service since ${stamp(record.out_of_service.at)}, by ${record.out_of_service.by}: ${record.out_of_service.reason}`,
      back(record.alarm, "in_service", "In service", may("engineer"))))}
    ${shelved.map((record) => item(record, `is shelved until ${stamp(record.shelved.until)} by ${record.shelved.by}: ${record.shelved.reason}`,
      back(record.alarm, "unshelve", "Unshelve", person)))}
    ${explained.map((record) => item(record, `${record.suppressed}: ${record.reason}`, null))}</ul>
    ${error}</details>`
}

export const HandOver = () => runs() && may("operator")
  && html`<button data-testid="hand-over" onClick=${() => open({ kind: "handover" })}>Hand over…</button>`

// What every handover lists.
export const lasting = () => [...records.values()].filter((record) => (record.state in RANK && !record.suppressed)
  || record.shelved || record.out_of_service)

// --- sound, which browsers allow after a click only ----------------------------------------------------

const sound = { context: null, known: new Set() }
export const soundIsOn = () => sound.context?.state === "running"

export async function toggleSound() {
  if (soundIsOn()) {
    await sound.context.suspend()
  } else {
    sound.context ??= new AudioContext()
    await sound.context.resume()
    tone(660)
  }
  changed("sound")
}

function tone(frequency) {
  const { context } = sound
  ;[0, 0.25].forEach((delay) => {
    const from = context.currentTime + delay
    const oscillator = new OscillatorNode(context, { frequency })
    const gain = new GainNode(context, { gain: 0 })
    gain.gain.setTargetAtTime(0.2, from, 0.01)
    gain.gain.setTargetAtTime(0, from + 0.15, 0.03)
    oscillator.connect(gain).connect(context.destination)
    oscillator.start(from)
    oscillator.stop(from + 0.4)
  })
}

// One tone for all alarms that are new at once.
watch("alarms", () => {
  const active = rows().filter((row) => row.state === "active")
  const named = ({ key, together }) => `${key} ${together?.[0].occurrence ?? ""}`
  const fresh = active.filter((row) => !sound.known.has(named(row)))
  sound.known = new Set(active.map(named))
  if (fresh.length && soundIsOn()) tone(fresh.some((row) => row.severity === "ERR") ? 880 : 550)
})
