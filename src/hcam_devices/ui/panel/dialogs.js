// Dialogs: a command or a setpoint, a run, a simulated fault, the shelf, signing in, help.

import { html } from "./html.js"
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks"
import { changed, model, rpc, signIn, units, useModel } from "./model.js"
import { label, limit, plain, signed, some, stamp } from "./format.js"
import { ask, lasting } from "./alarms.js"

let shown = null

export function open(dialog) {
  shown = dialog
  changed("dialog")
}

const CONTENTS = { command: Command, shelve: Shelve, "out-of-service": OutOfService, handover: Handover, "sign-in": SignIn, simulate: Simulate, run: Run, help: Help }

export function Dialog() {
  useModel("dialog")
  const element = useRef()
  const close = () => open(null)
  useLayoutEffect(() => {
    if (shown && !element.current.open) element.current.showModal()
    if (shown) element.current.querySelector("[data-first], .go")?.focus()
    if (!shown) element.current.close()
  }, [shown])
  const Content = shown && CONTENTS[shown.kind]
  return html`<dialog ref=${element} onClose=${close} aria-labelledby="dialog-title"
    onClick=${(event) => event.target === element.current && close()}>
    ${Content && html`<${Content} ...${shown} close=${close} key=${JSON.stringify([shown.kind, shown.device?.name, shown.name])} />`}
  </dialog>`
}

// A form that does one thing: `send` returns a promise of the sentence to show.
function Form({ title, doc, go = "Do it", wrong = "", quiet, send, close, children, done = "Close" }) {
  const [said, setSaid] = useState(null) // {text, failed}
  const [since, setSince] = useState(0)
  useModel("tick")
  const submit = async (event) => {
    event.preventDefault()
    if (wrong || since) return
    setSince(performance.now())
    try {
      setSaid({ text: await send() })
    } catch (error) {
      setSaid({ text: error.message, failed: true })
    }
    setSince(0)
  }
  const over = said && !said.failed
  return html`<form data-testid="confirm" onSubmit=${over ? (event) => { event.preventDefault(); close() } : submit} noValidate>
    <h2 id="dialog-title">${title}</h2>
    ${doc && html`<p class="muted">${doc}</p>`}
    ${!over && children}
    ${wrong && !quiet && !over && html`<p class="wrong" role="status">${wrong}</p>`}
    ${said && html`<p class=${said.failed ? "wrong" : "answer"} role="alert" data-testid="answer">${said.text}</p>`}
    <footer>
      ${since > 0 && html`<span class="muted">waiting… ${Math.round((performance.now() - since) / 1000)} s</span>`}
      ${!over && html`<button type="button" onClick=${close}>Cancel</button>`}
      <button type="submit" class="go" data-go disabled=${!over && (Boolean(wrong) || since > 0)} key=${String(over)}
        ref=${(button) => over && button?.focus()}>${over ? done : go}</button>
    </footer>
  </form>`
}

// --- inputs from JSON Schema ------------------------------------------------------------------------

const option = (schema, type) => schema.type === type ? schema : schema.anyOf?.find((one) => one.type === type)

// The kind of input for a schema: what it shows and how its text becomes a value.
function inputOf(schema) {
  if (schema.enum) return { choices: schema.enum.filter((one, i) => typeof one === "string" || schema.enum.every((other) => typeof other === "number")) }
  if (schema.anyOf?.every((one) => ["boolean", "null", "integer"].includes(one.type)) && option(schema, "boolean")
      || schema.type === "boolean") return { choices: [true, false] }
  const number = option(schema, "number") ?? option(schema, "integer")
  if (number && !(option(schema, "string") && !option(schema, "object"))) return { number }
  if (option(schema, "array")) return { list: true }
  if (!schema.type && !schema.anyOf) return { file: true }
  return {}
}

const optional = (schema) => "default" in schema || Boolean(option(schema, "null"))

// Return the value of a text, or undefined to leave the argument out. Raises Error with a sentence.
function parse(text, schema, name, required) {
  const kind = inputOf(schema)
  if (text === "" || text === undefined) {
    if (required && !kind.file) throw new Error(`${label(name)} is missing`)
    if (required) throw new Error("choose a file")
    return undefined
  }
  if (kind.choices) return kind.choices.find((one) => String(one) === text)
  if (kind.number) return number(text, kind.number)
  if (kind.list) return text.split(/[\s,;]+/).filter(Boolean).map((part) => number(part, option(schema, "array").items ?? {}))
  if (kind.file) {
    try {
      return JSON.parse(text)
    } catch (error) {
      throw new Error(`${label(name)} is not JSON: ${error.message}`)
    }
  }
  return option(schema, "integer") || option(schema, "number") ? typed(text) : text
}

const typed = (text) => { try { return JSON.parse(text) } catch { return text } }

function number(text, schema) {
  if (/^[-−]?\d{1,3}(,\d{3})+$/.test(text.trim())) throw new Error(`${text} may be thousands or a fraction: write it without a comma`)
  const value = Number(text.replace("−", "-").replace(/^(-?\d+),(\d+)$/, "$1.$2"))
  const { minimum, maximum, exclusiveMinimum } = schema
  if (text.trim() === "" || !Number.isFinite(value)) throw new Error(`${text} is not a number`)
  if (schema.type === "integer" && !Number.isInteger(value)) throw new Error(`${text} is not a whole number`)
  if (value < minimum || value > maximum || value <= exclusiveMinimum) {
    throw new Error(`${text} is outside of ${range(schema)}`)
  }
  return value
}

const range = ({ minimum, maximum, exclusiveMinimum }) =>
  `${limit(minimum ?? exclusiveMinimum ?? null)} to ${limit(maximum ?? null)}`

function Input({ name, schema, value, onInput, unit = schema.unit, first }) {
  const kind = inputOf(schema), id = `input-${name}`
  const bounds = kind.number && [kind.number.minimum, kind.number.maximum].some((one) => one !== undefined)
  const hint = [bounds && range(kind.number), kind.list && "numbers, with blanks between them", optional(schema) && "may be empty"]
    .filter(Boolean).join("; ")
  const edit = (event) => onInput(event.target.value)
  const common = { id, name, "data-first": first ? "" : null, "aria-describedby": `${id}-hint` }
  return html`<label class="input" for=${id}>
    <span>${label(name)}</span>
    ${kind.choices ? html`<select ...${common} value=${value ?? ""} onInput=${edit}>
        <option value="">${optional(schema) ? "" : "choose…"}</option>
        ${kind.choices.map((choice) => html`<option value=${String(choice)}>${choice === true ? "yes" : choice === false ? "no" : choice}</option>`)}
      </select>`
    : kind.file ? html`<input ...${common} type="file" accept=".json,application/json" onInput=${async (event) => {
        const [file] = event.target.files
        onInput(file ? await file.text() : "")
      }} />`
    : html`<input ...${common} type="text" inputmode=${kind.number ? "decimal" : "text"} autocomplete="off"
        value=${value ?? ""} onInput=${edit} />`}
    ${unit && html`<span class="unit">${units(unit)}</span>`}
    <small id=${`${id}-hint`}>${hint}</small>
  </label>`
}

function Why({ value, onInput }) {
  return html`<label class="input" for="why"><span>why</span>
    <input id="why" name="why" type="text" maxlength="200" autocomplete="off" value=${value}
      onInput=${(event) => onInput(event.target.value)} /><small>for the record; may be empty</small></label>`
}

// --- a command or a setpoint --------------------------------------------------------------------------

function Command({ device, name, close }) {
  useModel(device.key)
  const procedure = device.about.procedures[name]
  const field = procedure.sets ? device.fields[procedure.sets] : null
  const { properties, required } = procedure.parameters
  const names = Object.keys(properties).filter((one) => one !== "confirm")
  const [texts, setTexts] = useState({})
  const [sure, setSure] = useState(false)
  const [why, setWhy] = useState("")
  const { values, wrong } = read(texts, names, properties, required, field ? { [procedure.positional[0]]: procedure.sets } : {})
  const send = async () => {
    const args = procedure.rest && values[procedure.rest]
      ? [...procedure.positional.map((one) => values[one]), ...[].concat(values[procedure.rest])] : []
    const kwargs = args.length ? {} : { ...values }
    if (properties.confirm) kwargs.confirm = sure
    if (why && !procedure.read_only) kwargs._why = why
    return sentence(await rpc(device.name, name, args, kwargs), procedure, field)
  }
  const untouched = !Object.values(texts).some(Boolean)
  return html`<${Form} title=${`${device.name}: ${procedure.label}`} doc=${field?.doc ?? procedure.doc} go=${field ? "Set" : procedure.label}
      wrong=${wrong} quiet=${untouched} send=${send} close=${close}>
    <${Now} device=${device} procedure=${procedure} name=${name} />
    ${names.map((one, i) => html`<${Input} key=${one} name=${field && i === 0 ? procedure.sets : one} schema=${properties[one]}
      unit=${field && i === 0 ? field.unit : properties[one].unit} first=${i === 0}
      value=${texts[one]} onInput=${(text) => setTexts({ ...texts, [one]: text })} />`)}
    ${properties.confirm && html`<label class="check"><input type="checkbox" name="confirm" checked=${sure}
      onInput=${(event) => setSure(event.target.checked)} /> I am sure</label>`}
    ${!procedure.read_only && html`<${Why} value=${why} onInput=${setWhy} />`}
  <//>`
}

function read(texts, names, properties, required, words) {
  const values = {}
  try {
    for (const name of names) {
      const value = parse(texts[name], properties[name], words[name] ?? name, required.includes(name))
      if (value !== undefined) values[name] = value
    }
    return { values, wrong: "" }
  } catch (error) {
    return { values, wrong: error.message }
  }
}

// What is now, of all that the command concerns.
function Now({ device, procedure, name }) {
  const axis = device.about.axes[procedure.moves ?? name.split(".")[0]]
  const concerned = [procedure.sets && device.fields[procedure.sets].pair, procedure.sets, axis?.readback, axis?.setpoint]
  const names = [...new Set(concerned.filter(Boolean))]
  return html`<dl class="now"><div><dt>state</dt><dd>${device.state}</dd></div>
    ${names.map((one) => html`<div><dt>${label(one)}</dt><dd>${plain(device.value(one), device.fields[one], model.instrument.units)}</dd></div>`)}
  </dl>`
}

// The answer as a sentence. Some procedures answer with a message and whether it was done.
export function sentence(answer, procedure, field) {
  if (procedure.read_only) return typeof answer === "object" ? JSON.stringify(answer, null, 1) : signed(String(answer))
  const parts = Array.isArray(answer) && answer.length === 2 ? answer : [answer]
  const done = parts.find((one) => typeof one === "boolean"), text = parts.find((one) => typeof one === "string")
  if (done === false) throw new Error(`It was refused: ${text ?? "no reason was given"}`)
  if (field) return `${label(procedure.sets)} is now ${plain(answer, field, model.instrument.units)}.`
  if (done && text) return `Done: ${text}`
  if (answer === null || answer === true) return procedure.moves ? "The motion has begun." : "Done."
  return typeof answer === "object" ? JSON.stringify(answer, null, 1) : `Done: ${answer}`
}

// --- a run: the setup file of the instrument panel, what only a person knows, then the start -------------

const RUN_TYPES = ["data", "acquisition", "bias", "flat", "dark", "technical"]
const QUESTIONS = { target: "target", Observers: "observers", PI: "PI", ID: "programme", comment: "comment" }

function Run({ device, close }) {
  const [setup, setSetup] = useState(null)
  const [wrong, setWrong] = useState("choose the file of a setup")
  const [user, setUser] = useState({})
  const [start, setStart] = useState(true)
  const [sure, setSure] = useState(false)
  const take = async (event) => {
    const [file] = event.target.files
    setSetup(null)
    try {
      const found = JSON.parse(await file.text())
      if (typeof found?.appdata?.app !== "string") throw new Error("it has no appdata with an app")
      setSetup(found)
      setUser({ flags: "data", ...found.user })
      setWrong("")
    } catch (error) {
      setWrong(`${file?.name ?? "this"} is not a setup: ${error.message}`)
    }
  }
  const missing = setup && !wrong && (!user.flags ? "choose the type of the run"
    : !user.target && ["data", "acquisition", "technical"].includes(user.flags) ? "name the target" : "")
  const send = async () => {
    const loaded = sentence(await rpc(device.name, "load_setup", [{ ...setup, user }], { confirm: sure }), {})
    if (!start) return `The setup is loaded. ${loaded}`
    return `The run has started. ${sentence(await rpc(device.name, "start"), {})}`
  }
  const active = device.state === "exposing"
  return html`<${Form} title=${`${device.name}: Load setup and start a run`} wrong=${wrong || missing} send=${send} close=${close}
      doc="Load a setup file, answer what only a person knows, and start." go=${start ? "Load and start" : "Load"}>
    <label class="input" for="setup"><span>setup file</span>
      <input id="setup" name="setup" type="file" accept=".json,application/json" data-first="" onInput=${take} /></label>
    ${setup && html`<${Summary} app=${setup.appdata} />
      <label class="input" for="flags"><span>type of run</span>
        <select id="flags" name="flags" value=${user.flags} onInput=${(event) => setUser({ ...user, flags: event.target.value })}>
          ${RUN_TYPES.map((type) => html`<option value=${type}>${type}</option>`)}</select></label>
      ${Object.entries(QUESTIONS).map(([key, text]) => html`<label class="input" for=${`run-${key}`} key=${key}><span>${text}</span>
        <input id=${`run-${key}`} name=${key} type="text" autocomplete="off" value=${user[key] ?? ""}
          onInput=${(event) => setUser({ ...user, [key]: event.target.value })} /></label>`)}
      <label class="check"><input type="checkbox" name="start" checked=${start}
        onInput=${(event) => setStart(event.target.checked)} /> start the run at once</label>`}
    ${active && html`<label class="check"><input type="checkbox" name="confirm" checked=${sure}
      onInput=${(event) => setSure(event.target.checked)} /> a run is active: I am sure that it may end</label>`}
  <//>`
}

function Summary({ app }) {
  const told = { mode: app.app, readout: app.readout, binning: `${app.xbin} × ${app.ybin}`,
    exposures: app.numexp || "until it is stopped", "exposure time": `${app.exptime} s`, clear: app.clear ? "yes" : "no" }
  return html`<dl class="now">${Object.entries(told).map(([name, value]) =>
    html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`
}

// --- simulated faults --------------------------------------------------------------------------------------

function Simulate({ device, close }) {
  const [offers, setOffers] = useState(null)
  const [fault, setFault] = useState("")
  const [texts, setTexts] = useState({})
  const [failed, setFailed] = useState("")
  useEffect(() => { rpc(device.name, "simulate").then(setOffers, (error) => setFailed(error.message)) }, [])
  const chosen = fault === "set" ? offers.values : offers?.["may inject"][fault] ?? {}
  const send = async () => {
    const values = Object.entries(chosen).map(([name, old]) => [name, texts[name] ?? old])
      .filter(([name]) => fault !== "set" || name in texts)
    const answer = await rpc(device.name, "simulate", [fault],
      Object.fromEntries(values.map(([name, value]) => [name, typeof value === "string" ? typed(value) : value])))
    const active = Object.keys(answer.faults)
    return active.length ? `Faults now: ${active.join(", ")}.` : "There are no faults now."
  }
  const faults = offers && ["clear", ...(Object.keys(offers.values).length ? ["set"] : []), ...Object.keys(offers["may inject"])]
  const active = Object.keys(offers?.faults ?? {})
  return html`<${Form} title=${`${device.name}: Simulate`} doc="Give the simulated hardware a fault or other values, to rehearse."
      wrong=${failed || (!offers ? "asking the simulator…" : !fault ? "choose a fault" : "")} send=${send} close=${close} go="Simulate">
    ${offers && html`<p class="muted">${active.length ? `active: ${active.join(", ")}` : "no fault is active"}</p>
      <label class="input" for="fault"><span>fault</span>
      <select id="fault" name="fault" value=${fault} data-first="" onInput=${(event) => { setFault(event.target.value); setTexts({}) }}>
        <option value="">choose…</option>
        ${faults.map((one) => html`<option value=${one}>${{ clear: "clear all faults", set: "set values" }[one] ?? one}</option>`)}
      </select></label>
      ${Object.entries(chosen).map(([name, old]) => html`<label class="input" for=${`sim-${name}`} key=${fault + name}><span>${label(name)}</span>
        <input id=${`sim-${name}`} name=${name} type="text" autocomplete="off" value=${texts[name] ?? String(old)}
          onInput=${(event) => setTexts({ ...texts, [name]: event.target.value })} /></label>`)}`}
  <//>`
}

// --- the others ------------------------------------------------------------------------------------------------

function Text({ name, value, onInput, hint, ...more }) {
  return html`<label class="input" for=${name}><span>${name}</span><input id=${name} name=${name} type="text" autocomplete="off"
    value=${value} onInput=${(event) => onInput(event.target.value)} ...${more} /><small>${hint}</small></label>`
}

function Shelve({ row, close }) {
  const most = row.severity === "ERR" ? 60 : 720
  const [minutes, setMinutes] = useState("30")
  const [reason, setReason] = useState("")
  const value = Number(minutes)
  const wrong = !(value > 0 && value <= most) ? `give 1 to ${most} minutes` : reason.trim() ? "" : "say why"
  const send = async () => {
    const [{ shelved }] = await Promise.all(row.names.map((name) => ask("shelve", [name, value, reason])))
    return `${some(row.names)} ${row.names.length > 1 ? "are" : "is"} shelved until ${stamp(shelved.until)}.`
  }
  return html`<${Form} title=${`Shelve ${some(row.names)}`} quiet=${!reason} wrong=${wrong} send=${send} close=${close} go="Shelve"
      doc="Hide this alarm for a time. It comes back by itself, or if it becomes worse.">
    <${Text} name="minutes" value=${minutes} onInput=${setMinutes} hint=${`at most ${most}, and not beyond noon UTC`} inputmode="numeric" data-first="" />
    <${Text} name="reason" value=${reason} onInput=${setReason} />
  <//>`
}

function OutOfService({ row, close }) {
  const [reason, setReason] = useState("")
  const send = async () => {
    await Promise.all(row.names.map((name) => ask("out_of_service", [name, reason])))
    return `${some(row.names)} ${row.names.length > 1 ? "are" : "is"} out of service.`
  }
  return html`<${Form} title=${`Out of service: ${some(row.names)}`} quiet=${!reason} wrong=${reason.trim() ? "" : "say why"} send=${send}
      close=${close} go="Out of service" doc="Hide this alarm until an engineer puts it in service again. Every handover names it.">
    <${Text} name="reason" value=${reason} onInput=${setReason} data-first="" />
  <//>`
}

function Handover({ close }) {
  useModel("alarms")
  const [note, setNote] = useState("")
  const send = async () => {
    await ask("handover", [note])
    return "It is logged. The next observer confirms it here."
  }
  const found = lasting()
  const word = (record) => record.out_of_service ? "out of service" : record.shelved ? "shelved" : record.state
  return html`<${Form} title="Hand over" send=${send} close=${close} go="Hand over" doc="Log what the next observer has to know, with these alarms:">
    <dl class="now">${!found.length && html`<div><dt>no alarms</dt></div>`}
      ${found.map((record) => html`<div key=${record.alarm}><dt>${record.alarm}</dt><dd>${word(record)}</dd></div>`)}</dl>
    <${Text} name="note" value=${note} onInput=${setNote} maxlength="2000" data-first="" />
  <//>`
}

const inKeyFile = (text, name) => new RegExp(`^${name} = "(.*)"$`, "m").exec(text)?.[1] ?? ""

function SignIn({ close, reason }) {
  const [name, setName] = useState("")
  const [secret, setSecret] = useState("")
  const read = async (event) => {
    const text = await event.target.files[0]?.text() ?? ""
    setName(inKeyFile(text, "name"))
    setSecret(inKeyFile(text, "token"))
  }
  const send = async () => {
    await signIn({ name, secret })
    return `You are ${name}, ${model.role}.`
  }
  return html`<${Form} title="Sign in" go="Sign in" quiet=${!name} wrong=${name && secret ? "" : "give your name and token, or your key file"}
      send=${send} close=${close} doc=${reason ?? "Your name and token are in your key file. The page forgets them when it is closed."}>
    <label class="input" for="user"><span>name</span><input id="user" data-testid="user" name="user" type="text" autocomplete="username"
      data-first="" value=${name} onInput=${(event) => setName(event.target.value)} /></label>
    <label class="input" for="secret"><span>token</span><input id="secret" data-testid="secret" name="secret" type="password"
      autocomplete="off" value=${secret} onInput=${(event) => setSecret(event.target.value)} /></label>
    <label class="input" for="key-file"><span>or key file</span><input id="key-file" type="file" onInput=${read} /></label>
  <//>`
}

function Help({ close }) {
  const keys = { "/": "find a device", Tab: "go through everything", Enter: "do it", Escape: "close", "?": "this help" }
  return html`<${Form} title="Help" send=${async () => close()} close=${close} go="Close"
      doc="Click any number to see its history, and a dashed value to change it.">
    <dl class="now">${Object.entries(keys).map(([key, text]) => html`<div key=${key}><dt><kbd>${key}</kbd></dt><dd>${text}</dd></div>`)}</dl>
    <p class="muted"><span class="shape WARN">▲</span> warning <span class="shape ERR">◆</span> error. Grey: old, or not read.</p>
  <//>`
}
