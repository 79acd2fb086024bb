// Devices: heads, the detector, axes, and a card for each other device. All of it is made from what
// `describe` says, so a device looks the same whether or not it can be reached.

import { html } from "./html.js"
import { useLayoutEffect, useRef, useState } from "preact/hooks"
import { families, may, model, units, useModel } from "./model.js"
import { label, limit, plain, signed, written } from "./format.js"
import { Shape } from "./alarms.js"
import { open } from "./dialogs.js"
import { hourOf, Log, show } from "./history.js"

const MAX_BUTTONS = 7
const CARD_WIDTH = 330, ROW_HEIGHT = 28, CARD_HEIGHT = 96

// --- a value ----------------------------------------------------------------------------------------

export function Value({ device, name, bare }) {
  const field = device.fields[name]
  const value = device.value(name)
  const { text, power } = value === null && device.fresh && !device.alarm(name) ? { text: "none" } : written(value, field)
  const unit = field?.unit && value !== null && !bare ? units(field.unit) : ""
  const content = html`<b>${text}${power && html`<sup>${power}</sup>`}</b>${unit && html`<small>${unit}</small>`}`
  const why = text === "none" ? "" : value === null ? `not read: ${device.reason(name)}`
    : device.fresh ? "" : `old: ${device.state}`
  const common = {
    class: `value ${value === null ? "null" : ""} ${device.fresh ? "" : "stale"} ${device.alarm(name)?.severity ?? ""}`,
    "data-testid": `value:${device.name}.${name}`,
    "data-value": value === null ? "" : typeof value === "string" ? value : JSON.stringify(value),
    "data-unit": field?.unit ?? "",
    title: [`${device.name}.${name}`, field?.doc, why].filter(Boolean).join("\n"),
  }
  if (field?.type !== "number") return html`<span ...${common}>${content}</span>`
  return html`<button ...${common} aria-label=${`${device.name} ${label(name)} ${plain(value, field, model.instrument.units)}: history`}
    onClick=${() => show(device, name)}>${content}</button>`
}

// A setpoint: its value, and a button that changes it, where the role may.
function Setpoint({ device, name, word, bare }) {
  const procedure = device.about.procedures[`set_${name}`]
  const value = html`<${Value} device=${device} name=${name} bare=${bare} />`
  const change = procedure && may(procedure.audience) && html`<button class="set" data-testid=${`set:${device.name}.${name}`}
    aria-label=${`change ${device.name} ${label(name)}`} title=${`change ${label(name)}`} disabled=${!allowed(device, `set_${name}`)}
    onClick=${() => open({ kind: "command", device, name: `set_${name}` })}>✎</button>`
  return html`<span class="setpoint">${word && html`<span class="muted">${word}</span>`}${value}${change}</span>`
}

const Shown = ({ device, name, ...more }) => device.fields[name].settable
  ? html`<${Setpoint} device=${device} name=${name} ...${more} />` : html`<${Value} device=${device} name=${name} ...${more} />`

// The healthy part of a range, and where the value is. The bar is longer than the healthy part.
function RangeBar({ device, name }) {
  const field = device.fields[name]
  if (!field.healthy) return null
  const [from, to, low, high] = domain(field)
  const at = (value) => Math.min(100, Math.max(0, 100 * (position(value, field) - from) / (to - from)))
  const value = device.value(name)
  return html`<span class="range" role="img" aria-label=${`healthy from ${limit(field.healthy[0])} to ${limit(field.healthy[1])}`}>
    <i style=${{ left: `${at(low)}%`, right: `${100 - at(high)}%` }}></i>
    ${value !== null && html`<b style=${{ left: `${at(value)}%` }}></b>`}</span>`
}

const position = (value, field) => field.scale === "log" ? Math.log10(Math.max(value, 1e-30)) : value

function domain({ healthy: [low, high], scale }) {
  if (scale === "log") {
    const top = Math.log10(high ?? low * 1e4), bottom = low > 0 ? Math.log10(low) : top - 5
    return [bottom - 0.5, top + 2, low > 0 ? low : 0, high ?? Infinity]
  }
  if (high === null) return [0, low * 4 || 1, low, Infinity]
  if (low === null) return [Math.min(0, high * 2), Math.max(high * 1.4, 1), -Infinity, high]
  const margin = low === 0 ? 0 : (high - low) / 4
  return [low - margin, high + Math.max(margin, (high - low) / 10), low, high]
}

function Row({ device, name, word = label(name) }) {
  const judged = Boolean(device.fields[name].healthy)
  const severity = device.alarm(name)?.severity
  return html`<div class=${`row ${judged || severity ? "" : "minor"}`}>
    <span class="label" title=${device.fields[name].doc}><${Shape} severity=${severity} />${word}</span>
    <${Shown} device=${device} name=${name} />
    <${RangeBar} device=${device} name=${name} /></div>`
}

// The values of channels 1..n side by side.
function Channels({ device, groups }) {
  const numbers = [...new Set(groups.flatMap(({ name, channels }) => channels.map((one) => one.slice(name.length))))]
  return html`<div class="scroll"><table><thead><tr><th scope="col"><span class="unseen">field</span></th>
    ${numbers.map((n) => html`<th scope="col">${n}</th>`)}</tr></thead><tbody>
    ${groups.map(({ name, channels }) => html`<tr key=${name}><th scope="row">${label(name)}
      ${device.fields[channels[0]].unit && html`${" "}<small>${units(device.fields[channels[0]].unit)}</small>`}</th>
      ${numbers.map((n) => html`<td>${channels.includes(name + n) && html`<${Shown} device=${device} name=${name + n} bare />`}</td>`)}</tr>`)}
  </tbody></table></div>`
}

function Fields({ device, names }) {
  const found = families(device, names)
  const single = found.filter(({ channels }) => channels.length === 1)
  const several = found.filter(({ channels }) => channels.length > 1)
  return html`${single.map(({ channels: [name] }) => html`<${Row} key=${name} device=${device} name=${name} />`)}
    ${several.length > 0 && html`<${Channels} device=${device} groups=${several} />`}`
}

// --- commands -----------------------------------------------------------------------------------------------

// Whether the state of the axes allows a procedure now: `describe` has the chart.
export function allowed(device, name) {
  if (!device.fresh) return false
  const { procedures, axes } = device.about
  const { moves, sets } = procedures[name]
  for (const [axis, { chart, setpoint }] of Object.entries(axes)) {
    const legal = chart?.[device.sample.state[axis]]
    if (!chart) continue
    const event = name.startsWith(`${axis}.`) ? name.slice(axis.length + 1)
      : moves === axis ? "move" : sets && sets === setpoint ? "positionSet" : null
    if (event && !(legal && event in legal)) return false
  }
  return true
}

// The commands of the alarm system that are given where the alarms are shown.
const ALARMS = "alarms"
const IN_ROWS = { acknowledge: 1, shelve: 1, unshelve: 1, handover: 1, out_of_service: 1, in_service: 1 }
const AWKWARD = /^connection\.|(^|\.)(enable|disable)$/

// The interlock that a command resets, or "".
function interlockOf({ name: device, about }, name) {
  const interlock = name.endsWith(".reset") ? name.slice(0, -6) : ""
  return `${device}.${interlock}` in (about.interlocks ?? {}) ? interlock : ""
}

function rank(device, name) {
  const { audience, moves, parameters } = device.about.procedures[name]
  const interlock = interlockOf(device, name)
  if (interlock) return device.sample?.state[interlock] === "tripped" ? 0 : 3
  if (audience === "engineer") return 5
  if (audience === "observer") return 4
  if (AWKWARD.test(name)) return 3
  if ("confirm" in parameters.properties) return 2
  return moves ? 0 : 1
}

// The commands that the role may give: [name, rank], those first that people need most.
function commands(device) {
  const { procedures } = device.about ?? { procedures: {} }
  const first = device.place === "detector" ? model.instrument.exposure_commands : []
  return Object.keys(procedures)
    .filter((name) => may(procedures[name].audience) && !procedures[name].sets && !(device.name === ALARMS && name in IN_ROWS))
    .map((name) => [name, first.includes(name) ? first.indexOf(name) - first.length : rank(device, name)])
    .sort((a, b) => a[1] - b[1])
}

// The axis that a command is of, or undefined.
const axisOf = (device, name) => Object.keys(device.about.axes)
  .find((axis) => device.about.axes[axis].readback && (name.startsWith(`${axis}.`) || device.about.procedures[name].moves === axis))

function shownCommands(device) {
  const wanted = commands(device).filter(([, order]) => order < (device.place === "detector" ? 0 : 3)).map(([name]) => name)
  const own = wanted.filter((name) => !axisOf(device, name)).slice(0, MAX_BUTTONS)
  return wanted.filter((name) => own.includes(name) || axisOf(device, name))
}

function Command({ device, name }) {
  const { procedures } = device.about
  const { doc, label: word } = procedures[name]
  const ambiguous = Object.keys(procedures).some((other) => other !== name && procedures[other].label === word && !axisOf(device, name))
  const text = ambiguous ? `${word} ${label(name.split(".")[0])}` : word
  return html`<button data-testid=${`command:${device.name}.${name}`} disabled=${!allowed(device, name)} title=${doc}
    onClick=${() => open({ kind: name === "simulate" ? "simulate" : "command", device, name })}>${text}</button>`
}

const Buttons = ({ device, names }) => names.length > 0
  && html`<div class="buttons">${names.map((name) => html`<${Command} key=${name} device=${device} name=${name} />`)}</div>`

const OwnButtons = ({ device }) => html`<${Buttons} device=${device} names=${shownCommands(device).filter((name) => !axisOf(device, name))} />`

// All other commands.
function Menu({ device }) {
  const shown = device.about ? shownCommands(device) : []
  const others = commands(device).map(([name]) => name).filter((name) => !shown.includes(name))
  const element = useRef()
  const close = (event) => { if (!element.current.contains(event.relatedTarget)) element.current.open = false }
  if (!others.length) return null
  return html`<details class="menu" ref=${element} onFocusOut=${close}
      onKeyDown=${(event) => { if (event.key === "Escape") element.current.open = false }}>
    <summary aria-label=${`more commands of ${device.name}`} title="more commands" data-testid=${`more:${device.name}`}>⋯</summary>
    <div>${others.map((name) => html`<${Command} key=${name} device=${device} name=${name} />`)}</div></details>`
}

// --- cards -----------------------------------------------------------------------------------------------------

function Head({ device }) {
  const severity = device.worst
  return html`<header><h2>${device.name}</h2>
    <span class="state"><${Shape} severity=${severity} />${device.state}</span>
    <${Menu} device=${device} /></header>`
}

const cardProps = (device, more = "") => ({
  class: `card ${device.worst} ${device.fresh ? "" : "stale"} ${more}`,
  id: `device-${device.name}`,
  tabIndex: -1,
  "data-testid": `device:${device.name}`,
  "data-state": device.silent && device.sample ? "silent" : device.connection,
  "aria-label": device.name,
})

function Card({ device }) {
  useModel(device.key)
  const { about } = device
  const names = Object.keys(device.fields)
  const onAxes = Object.values(about?.axes ?? {}).flatMap(({ readback, setpoint }) => [readback, setpoint])
  return html`<article ...${cardProps(device)}><${Head} device=${device} />
    ${!about && html`<p class="muted">${device.reason("")}</p>`}
    ${about && Object.entries(about.axes).map(([axis, told]) => told.readback
      && html`<${Axis} key=${axis} device=${device} axis=${axis} told=${told} />`)}
    ${about && html`<${Fields} device=${device} names=${names.filter((name) => !onAxes.includes(name))} />`}
    ${about && html`<${OwnButtons} device=${device} />`}</article>`
}

function Axis({ device, axis, told: { readback, setpoint } }) {
  const [low, high] = device.fields[setpoint]?.limits ?? [null, null]
  const here = device.value(readback), target = device.value(setpoint)
  const at = (value) => `${Math.min(100, Math.max(0, 100 * (value - low) / (high - low)))}%`
  const bounded = low !== null && high !== null
  return html`<div class="axis">
    <div class="row"><span class="label" title=${device.fields[readback].doc}>${label(readback)} <small class="chip">${device.sample?.state[axis] ?? "no news"}</small></span>
      <span class="big"><${Value} device=${device} name=${readback} /></span></div>
    ${bounded && html`<span class="track" role="img" aria-label=${`from ${limit(low)} to ${limit(high)}`}>
      ${target !== null && html`<i style=${{ left: at(target) }}></i>`}
      ${here !== null && html`<b style=${{ left: at(here) }}></b>`}</span>`}
    ${setpoint && html`<div class="ends"><span>${bounded && limit(low)}</span>
      <${Setpoint} device=${device} name=${setpoint} word="target" />
      <span>${bounded && limit(high)}</span></div>`}
    <${Buttons} device=${device} names=${shownCommands(device).filter((name) => axisOf(device, name) === axis)} />
  </div>`
}

// One of several devices of a kind with much to show: its first field large, with an hour of it.
function HeadTile({ device }) {
  useModel(device.key)
  const names = Object.keys(device.fields)
  if (!names.length) return html`<article ...${cardProps(device, "head")}><${Head} device=${device} /><p class="muted">${device.reason("")}</p></article>`
  const [first] = names
  const { pair } = device.fields[first]
  const rest = names.filter((name) => name !== first && name !== pair)
  return html`<article ...${cardProps(device, "head")}><${Head} device=${device} />
    <div class="hero"><${Value} device=${device} name=${first} /></div>
    ${pair && html`<${Setpoint} device=${device} name=${pair} word=${label(pair)} />`}
    <${Sparkline} device=${device} name=${first} pair=${pair} />
    <div class="rows"><${Fields} device=${device} names=${rest} /></div>
    <${OwnButtons} device=${device} /></article>`
}

const WIDTH = 200, HEIGHT = 36

function Sparkline({ device, name, pair }) {
  const points = hourOf(device, name)
  const field = device.fields[name]
  const target = pair ? device.value(pair) : null
  const values = points?.map(([, value]) => value).filter((value) => value !== null) ?? []
  if (values.length < 2) return html`<div class="sparkline"></div>`
  // Noise must not fill the line.
  const least = field.scale === "log" ? 0.3 : 50 * 10 ** -(field.digits ?? 2)
  const all = [...values, ...(target === null ? [] : [target])].map((value) => position(value, field))
  const low = Math.min(...all), span = Math.max(Math.max(...all) - low, least)
  const middle = low + (Math.max(...all) - low) / 2
  const y = (value) => (HEIGHT / 2 - (position(value, field) - middle) / span * (HEIGHT - 6)).toFixed(1)
  const start = points[0][0], end = points.at(-1)[0]
  const x = (time) => (WIDTH * (time - start) / (end - start || 1)).toFixed(1)
  const path = points.map(([time, value], i) => value === null ? ""
    : `${i && points[i - 1][1] !== null ? "L" : "M"}${x(time)} ${y(value)}`).join("")
  return html`<svg class="sparkline" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img"
      aria-label=${`${label(name)} of the last hour: ${plain(Math.min(...values), field)} to ${plain(Math.max(...values), field, model.instrument.units)}`}>
    ${target !== null && html`<line x1="0" x2=${WIDTH} y1=${y(target)} y2=${y(target)} />`}
    <path d=${path} /></svg>`
}

export function Heads() {
  useModel("described")
  const heads = model.devicesInOrder.filter((device) => device.place === "head")
  const kinds = [...new Set(heads.map((device) => device.kind))]
  return kinds.map((kind) => {
    const same = heads.filter((device) => device.kind === kind)
    return html`<section class="heads" key=${kind} aria-label=${kind.split(".").pop()} style=${{ "--n": Math.min(same.length, 6) }}>
      ${same.map((device) => html`<${HeadTile} key=${device.name} device=${device} />`)}</section>`
  })
}

// --- the detector ----------------------------------------------------------------------------------------------

function Detector({ device }) {
  useModel(device.key)
  const { exposure } = model.instrument
  const value = (what) => device.value(exposure[what])
  const active = device.state === "exposing"
  const done = value("done") ?? 0, expected = value("expected") ?? 0
  const shown = ["run", "outcome", "done", "expected", "left"].map((what) => exposure[what])
  const special = { clocks: exposure.clocks, sequencer: exposure.sequencer, "data rate": exposure.rate, "disk free": exposure.disk }
  const rest = Object.keys(device.fields).filter((name) => !shown.includes(name) && !Object.values(special).includes(name))
  if (!device.about) return html`<article ...${cardProps(device)}><${Head} device=${device} /><p class="muted">${device.reason("")}</p></article>`
  const one = (what) => html`<${Value} device=${device} name=${exposure[what]} />`
  return html`<article ...${cardProps(device, active ? "active" : "")}><${Head} device=${device} />
    <div class="run"><span class="muted">${active ? "run" : "last run"}</span> ${one("run")} <span class="outcome">${one("outcome")}</span></div>
    <div class="exposure" data-testid="exposure" role="progressbar" aria-label="frames of the run" aria-valuemin="0"
      aria-valuenow=${done} aria-valuemax=${Math.max(expected, done, 1)}>
      <i style=${{ width: `${expected ? Math.min(100, 100 * done / expected) : active ? 100 : 0}%` }} class=${expected ? "" : "endless"}></i></div>
    <p class="frames">frames ${one("done")} of ${one("expected")}<span class="left">${one("left")} left</span></p>
    <div class="two">${Object.entries(special).map(([word, name]) => html`<${Row} key=${name} device=${device} name=${name} word=${word} />`)}</div>
    <details class="all"><summary>all values</summary><${Fields} device=${device} names=${rest} /></details>
    <${OwnButtons} device=${device} />
    ${may("operator") && html`<div class="buttons"><button class="go" data-testid=${`run:${device.name}`} disabled=${!device.fresh}
      onClick=${() => open({ kind: "run", device })}>Load setup and start…</button></div>`}
  </article>`
}

// --- the cards below ---------------------------------------------------------------------------------------------

function Group({ name, devices }) {
  return html`<article class="card group" aria-label=${name}><header><h2>${name}</h2></header>
    ${devices.map((device) => html`<${Sibling} key=${device.name} device=${device} />`)}</article>`
}

function Sibling({ device }) {
  useModel(device.key)
  const [name] = Object.keys(device.fields)
  return html`<div ...${cardProps(device, "sibling")}><div class="row">
    <span class="label"><${Shape} severity=${device.worst} />${label(device.name)}
      ${device.state !== "online" && html` <small class="muted">${device.state}</small>`}</span>
    ${name && html`<span class="with-menu"><${Value} device=${device} name=${name} /><${Menu} device=${device} /></span>
      <${RangeBar} device=${device} name=${name} />`}</div></div>`
}

// --- columns: each card has its place, whatever it shows ----------------------------------------------------

// What a card needs is guessed from what was declared, so that no card changes its place later.
const height = (devices) => CARD_HEIGHT + ROW_HEIGHT * (devices.length > 1 ? devices.length * 1.6
  : Math.max(3, families(devices[0]).length + 3 * Object.keys(devices[0].about?.axes ?? {}).length))

// Put [node, height] into as many columns as there is room for, each into the shortest.
function Columns({ name, cards }) {
  const element = useRef(), [n, setColumns] = useState(1)
  useLayoutEffect(() => {
    const count = () => setColumns(Math.max(1, Math.floor(element.current.clientWidth / CARD_WIDTH)))
    const resized = new ResizeObserver(count)
    resized.observe(element.current)
    count()
    return () => resized.disconnect()
  }, [])
  const columns = Array.from({ length: n }, () => ({ nodes: [], height: 0 }))
  for (const [node, needed] of cards) {
    const shortest = columns.reduce((a, b) => (b.height < a.height ? b : a))
    shortest.nodes.push(node)
    shortest.height += needed
  }
  return html`<section class="cards" ref=${element} aria-label=${name}>
    ${columns.map(({ nodes }, i) => html`<div key=${i}>${nodes}</div>`)}</section>`
}

// The detector, what moves, and what people did.
export function Beside() {
  useModel("described")
  const at = (place) => model.devicesInOrder.filter((device) => device.place === place)
  const cards = [
    ...at("detector").map((device) => [html`<${Detector} key=${device.name} device=${device} />`, 360]),
    ...at("axes").map((device) => [html`<${Card} key=${device.name} device=${device} />`, height([device])]),
    [html`<${Log} key="log" />`, 260],
  ]
  return html`<${Columns} name="Detector and axes" cards=${cards} />`
}

export function Cards() {
  useModel("described")
  const found = new Map()
  for (const device of model.devicesInOrder) {
    if (device.place !== "card") continue
    const key = device.group || device.name
    found.set(key, [...(found.get(key) ?? []), device])
  }
  const cards = [...found].map(([name, devices]) => [devices.length > 1
    ? html`<${Group} key=${name} name=${name} devices=${devices} />`
    : html`<${Card} key=${name} device=${devices[0]} />`, height(devices)])
  return html`<${Columns} name="Devices" cards=${cards} />`
}
