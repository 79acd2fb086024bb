// What the page knows of the instrument: what GET /instrument and `describe` say of it, the newest
// sample of each device and its age, the servers, and the session with the router.
//
// Parts of the page watch a key ("device:slide", "session", "alarms", "tick", ...) and are drawn
// again when it has changed.

import { useEffect, useReducer } from "preact/hooks"
import { OutcomeUnknown, Session } from "./wamp.js"
import { family } from "./format.js"

const ROLES = ["observer", "operator", "engineer"]
const TOGETHER = 100, FIRST_PAUSE = 500, MAX_PAUSE = 5000, TICK = 1000 // ms
const MAX_DESCRIBED = 50 // a server describes at most this many devices at once
const MAX_LIVE = 50 // with more devices, hear what changed from servers that publish it
const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/

const watchers = new Map()

export function changed(...keys) {
  for (const key of keys) for (const draw of watchers.get(key) ?? []) draw()
}

export function watch(key, draw) {
  if (!watchers.has(key)) watchers.set(key, new Set())
  watchers.get(key).add(draw)
  return () => watchers.get(key).delete(draw)
}

// Draw the calling component again whenever one of these keys has changed.
export function useModel(...keys) {
  const [, draw] = useReducer((n) => n + 1, 0)
  useEffect(() => {
    const forget = keys.map((key) => watch(key, draw))
    return () => forget.forEach((each) => each())
  }, [keys.join()])
}

class Device {
  constructor(told) {
    Object.assign(this, told)
    this.key = `device:${told.name}`
    this.about = null // what its server or `describe` answers
    this.sample = null
    this.heard = 0 // on the clock of performance.now(), or 0
  }

  get fields() { return this.about?.fields ?? {} }

  get age() { return this.heard ? (performance.now() - this.heard) / 1000 : Infinity }

  get silent() { return this.age > this.silent_after }

  get connection() { return this.sample?.state.connection ?? "no news" }

  // Whether its values are of now: read, by hardware that is reached, and heard a moment ago.
  get fresh() { return !this.silent && this.connection === "online" && model.link === "in" }

  value(name) {
    let found = this.sample
    for (const step of this.fields[name]?.path ?? [name]) found = found?.[step]
    return found !== null && typeof found === "object" ? found.value ?? null : found ?? null
  }

  // Why a field has no value.
  reason(name) {
    const why = this.sample?.alarms.find((alarm) => alarm.field === name || alarm.field === "connection")
    return why?.reason ?? (this.sample ? "the hardware has given no value" : "nothing was heard of it yet")
  }

  alarm(name) { return this.sample?.alarms.find((alarm) => alarm.field === name) }

  get worst() {
    const severities = this.sample?.alarms.map((alarm) => alarm.severity) ?? []
    return severities.includes("ERR") ? "ERR" : severities[0] ?? ""
  }

  // The state in a word, as in the live view of the terminal.
  get state() {
    if (!this.sample) return "no news"
    if (this.silent) return "silent"
    if (this.connection !== "online") return this.connection
    if (this.place === "detector") {
      const { activity, state } = model.instrument.exposure
      const words = { active: "exposing", error: "error" }
      return words[this.sample[activity]] ?? String(this.sample[state])
    }
    const { connection, ...others } = this.sample.state
    const told = new Set(Object.values(others).filter((state) => state !== model.instrument.at_rest))
    return [...told].join("/") || connection
  }
}

export const model = {
  instrument: null,
  devices: new Map(),
  servers: new Map(), // name -> {state, emulated, ...}
  session: null,
  link: "joining", // or "in", "cut", "refused", "failed": it did not start
  reason: "", // why there is no session
  heard: 0, // when the last session ended
  who: null, // {name, secret} of the person who has signed in; in memory only
  replay: new URLSearchParams(location.search).get("realm") === "replay",
  played: 0, // the time of the newest sample of a replay
  get role() { return this.session?.role ?? "" },
  get devicesInOrder() { return [...this.devices.values()] },
}

// The time (ms) of what is shown: that of a replay is in the past.
export const now = () => model.replay ? model.played || Date.now() : Date.now()

// Whether the role of the session may use what is for this audience. Roles that are not a
// person's, such as that of a plain Crossbar, may do everything.
export function may(audience) {
  if (model.link !== "in" || model.replay || audience === "program") return false
  const own = ROLES.indexOf(model.role)
  return ROLES.indexOf(audience) <= (own < 0 && model.role === "local" ? 2 : Math.max(own, 0))
}

export const units = (unit) => model.instrument?.units[unit] ?? unit
export const call = (procedure, ...rest) => model.session
  ? model.session.call(procedure, ...rest)
  : Promise.reject(new Error("There is no router; nothing was sent."))
export const rpc = (device, name, ...rest) => call(`hipercam.${device}.rpc.${name}`, ...rest)

// --- the connection ---------------------------------------------------------------------------

let pause = FIRST_PAUSE
let again = null

export async function start() {
  const answer = await fetch("instrument")
  if (!answer.ok) throw new Error(`GET /instrument answers ${answer.status}`)
  model.instrument = await answer.json()
  for (const told of model.instrument.devices) model.devices.set(told.name, new Device(told))
  if (model.replay) await describeAll()
  changed("instrument")
  setInterval(tick, TICK)
  join()
}

async function join() {
  clearTimeout(again)
  const url = new URL(model.instrument.websocket, location.href)
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:"
  try {
    const realm = model.replay ? "replay" : model.instrument.realm
    const session = await Session.join(url, realm, model.who, (reason) => {
      if (model.session === session) cut(reason)
    })
    model.session = session
    pause = FIRST_PAUSE
    set("in", "")
    follow(session)
  } catch (error) {
    const refused = error.uri && model.who // a wrong name or token is not tried again
    failed?.(error)
    failed = null
    if (refused) {
      model.who = null
    } else if (error.uri) {
      set("refused", error.message)
      return
    } else if (model.link !== "refused") {
      set(model.link === "cut" ? "cut" : "joining", error.message)
    }
    again = setTimeout(join, refused ? 0 : pause)
    pause = Math.min(pause * 2, MAX_PAUSE)
  }
}

function set(link, reason) {
  model.link = link
  model.reason = reason
  changed("session", "alarms", ...model.devicesInOrder.map((device) => device.key))
}

function cut(reason) {
  model.session = null
  model.heard = performance.now()
  set("cut", reason)
  again = setTimeout(join, pause)
}

let failed = null

// Join again as a person, or as nobody (null). Rejects if the router does not know name and secret.
export function signIn(who) {
  if (who && location.protocol === "http:" && !LOOPBACK.test(location.hostname)) {
    return Promise.reject(new Error("A token may not cross a network without TLS, where others can read it: "
      + "nothing was sent. Open the panel with https, or on the router's own machine."))
  }
  const session = model.session
  model.session = null
  model.who = who
  session?.end("signed in again")
  return new Promise((resolve, reject) => {
    failed = reject
    const stop = watch("session", () => {
      if (model.link !== "in" || !model.session) return
      stop()
      resolve()
    })
    join()
  })
}

const RETAINED = { get_retained: true }

function follow(session) {
  const live = new Map() // device -> what ends the subscription to its telemetry
  const listen = (device) => {
    live.set(device, null)
    session.subscribe(`hipercam.${device.name}.telemetry`, (sample) => hear(device, sample), RETAINED)
      .then((end) => live.set(device, end), complain)
  }
  for (const device of model.devices.values()) {
    listen(device)
    if (!device.about) describe(device)
  }
  const many = model.devices.size > MAX_LIVE && !model.replay
  for (const server of model.instrument.servers) {
    session.subscribe(`hipercam.${server}.status`, (status) => {
      hearServer(server, status)
      if (!many || status?.state !== "gone") return
      // The last telemetry of its devices says that they are gone.
      for (const device of model.devices.values()) if (device.server === server && !live.has(device)) listen(device)
    }, RETAINED).catch(complain)
  }
  if (many) session.subscribe("hipercam..changes", (event) => hearChanges(event, live), { match: "wildcard" }).catch(complain)
  for (const listener of listeners) listener(session)
}

// Called with each new session, to subscribe to more.
export const listeners = []

// A subscription was refused. One that ended with its session is no news: the next session subscribes again.
export const complain = (error) => { if (!(error instanceof OutcomeUnknown)) console.warn(error.message) }

// In a replay nobody answers: the router has the descriptions of the instrument file.
async function describeAll() {
  const answer = await fetch("described.json")
  if (answer.status === 404) throw new Error("This router does not know what replayed devices are: "
    + "only a router that hcam up or hcam router has started does. Replay the night there")
  if (!answer.ok) throw new Error(`GET /described.json answers ${answer.status}`)
  for (const [name, about] of Object.entries(await answer.json())) {
    model.devices.get(name).about = { ...about, procedures: {} }
  }
  soon("described", "alarms")
}

const undescribed = new Set()

// Ask what a device is, together with the others of its server that are asked for at this moment.
function describe(device) {
  if (model.replay || device.asked) return
  device.asked = true
  if (!undescribed.size) queueMicrotask(describeTogether)
  undescribed.add(device)
}

function describeTogether() {
  const servers = {}
  for (const device of undescribed) (servers[device.server] ??= []).push(device)
  undescribed.clear()
  for (const [server, devices] of Object.entries(servers)) {
    while (devices.length) askServer(server, devices.splice(0, MAX_DESCRIBED))
  }
}

async function askServer(server, devices) {
  const rest = new Set(devices)
  const told = (device, about) => {
    rest.delete(device)
    device.about = about
    changed(device.key)
    soon("described", "alarms")
  }
  try {
    const { parts, devices: found } = await rpc(server, "devices", [devices.map((device) => device.name)])
    for (const [{ fields, procedures, axes, ...about }] of found) {
      told(model.devices.get(about.device), { ...about, fields: parts[fields], procedures: parts[procedures], axes: parts[axes] })
    }
  } catch {
    // It is older, or not running; another program may present its devices.
  }
  await Promise.all([...rest].map(async (device) => {
    // One that nobody presents is asked again when its server or a sample comes.
    try { told(device, await rpc(device.name, "describe")) } catch {}
  }))
  for (const device of devices) device.asked = false
}

// Many descriptions come at once: draw what depends on all of them a few times only.
const due = new Set()

function soon(...keys) {
  if (!due.size) setTimeout(() => { const now = [...due]; due.clear(); changed(...now) }, TOGETHER)
  for (const key of keys) due.add(key)
}

// The name of a topic is no proof of what was published there.
const isSample = (sample) => typeof sample?.state?.connection === "string"
  && Array.isArray(sample.alarms)

function hear(device, sample) {
  if (!isSample(sample)) return
  const before = signature(device)
  if (model.replay) {
    const time = Date.parse(sample.timestamp) || 0, back = time < Date.parse(device.sample?.timestamp ?? "")
    model.played = back ? time : Math.max(model.played, time)
  }
  device.sample = sample
  device.heard = performance.now()
  if (!device.about) describe(device)
  changed(device.key)
  if (signature(device) !== before) changed("alarms")
}

// What changed in the samples of a server's devices. Their telemetry need not be heard any more.
function hearChanges(event, live) {
  for (const [name, entries] of Object.entries(event?.devices ?? {})) {
    const device = model.devices.get(name)
    if (!device) continue
    hear(device, { ...device.sample, ...entries })
    if (!live.get(device)) continue
    live.get(device)().catch(complain)
    live.delete(device)
  }
}

const signature = (device) => `${device.connection} ${device.silent} `
  + (device.sample?.alarms.map((alarm) => alarm.severity + alarm.field + alarm.reason).join() ?? "")

function hearServer(server, status) {
  if (typeof status?.state !== "string") return
  const known = model.servers.get(server)
  const same = ["host", "pid", "since"].every((key) => known?.[key] === status[key])
  // The end of an older process of a server that runs again changes nothing.
  if (known && !same && status.state !== "running" && known.state === "running") return
  model.servers.set(server, status)
  if (known && status.state === "running" && !same) {
    for (const device of model.devices.values()) if (device.server === server) describe(device)
  }
  changed("session", "alarms")
}

function tick() {
  for (const device of model.devices.values()) {
    if (device.fresh !== device.wasFresh || device.silent !== device.wasSilent) {
      device.wasFresh = device.fresh
      device.wasSilent = device.silent
      changed(device.key, "alarms")
    }
  }
  changed("tick")
}

// --- fields of a device, as they are shown ------------------------------------------------------

// The fields of a device in the order of their declaration, those of channels 1..n together:
// [{name, channels: [field names]}]; a setpoint with a readback is shown beside that.
export function families(device, names = Object.keys(device.fields)) {
  const found = new Map()
  for (const name of names) {
    const base = family(name), n = name.slice(base.length)
    const several = n && `${base}2` in device.fields && `${base}1` in device.fields
    const key = several ? base : name
    if (!found.has(key)) found.set(key, { name: key, channels: [] })
    found.get(key).channels.push(name)
  }
  return [...found.values()]
}
