// The page: the bar at its top, and where everything is.

import { render } from "preact"
import { useEffect, useRef } from "preact/hooks"
import { html } from "./html.js"
import { changed, model, now, signIn, start, useModel } from "./model.js"
import { clock } from "./format.js"
import { Alarms, Shape, soundIsOn, toggleSound, verdict } from "./alarms.js"
import { Beside, Cards, Heads } from "./cards.js"
import { Dialog, open } from "./dialogs.js"
import { History } from "./history.js"

const WIDE = matchMedia("(min-width: 1500px)")
const COLOURS = { ok: "#3d4b5a", warn: "#f2b632", err: "#ff6b57", cut: "#98a3b3" }

WIDE.addEventListener("change", () => changed("wide"))

// --- the bar ------------------------------------------------------------------------------------------------

function Bar() {
  useModel("session", "alarms", "tick")
  const { state, text } = verdict()
  const devices = model.devicesInOrder
  const online = devices.filter((device) => device.connection === "online" && !device.silent).length
  const emulated = [...model.servers.values()].some((server) => server.emulated && server.state === "running")
  return html`<header class="bar">
    <h1>${(model.instrument?.title || "HiPERCAM").split(" on ")[0]}</h1>
    <p class=${`verdict ${state}`} data-testid="verdict" data-state=${state} role="status">
      <${Shape} severity=${{ warn: "WARN", err: "ERR" }[state]} />${text}</p>
    <span class="space"></span>
    <span class="muted online">${online} of ${devices.length} online</span>
    ${emulated && html`<span class="chip">emulated</span>`}
    ${model.replay && html`<span class="chip ERR" data-testid="replay">REPLAY ${new Date(now()).toISOString().slice(0, 10)}</span>`}
    <${Who} />
    <${Find} />
    <${Sound} />
    <button class="icon" onClick=${toggleRed} aria-pressed=${isRed()} title="red, for dark-adapted eyes">◐<span class="unseen">red mode</span></button>
    <button class="icon" onClick=${() => open({ kind: "help" })} title="help">?<span class="unseen"> help</span></button>
    <time class="clock" data-testid="clock">${clock(now())}<small> UTC</small></time>
  </header>`
}

function Who() {
  const name = model.session?.name
  return html`<span class="chip" data-testid="role">${model.link === "in" ? `${name ? `${name}, ` : ""}${model.role}` : "not joined"}</span>
    ${name ? html`<button data-testid="sign-out" onClick=${() => signIn(null).catch(() => {})}>Sign out</button>`
      : html`<button data-testid="sign-in" onClick=${() => open({ kind: "sign-in" })}>Sign in</button>`}`
}

function Sound() {
  useModel("sound")
  const on = soundIsOn()
  return html`<button aria-pressed=${on} data-testid="sound" onClick=${toggleSound}
    title="A tone for each new alarm; browsers allow it after a click only">${on ? "sound on" : "sound is off"}</button>`
}

function Find() {
  const input = useRef()
  useEffect(() => {
    const press = (event) => {
      if (event.target.closest?.("input, select, textarea, dialog") || event.ctrlKey || event.altKey || event.metaKey) return
      if (event.key === "/") { event.preventDefault(); input.current.focus() }
      if (event.key === "?") open({ kind: "help" })
    }
    addEventListener("keydown", press)
    return () => removeEventListener("keydown", press)
  }, [])
  const find = (event) => {
    event.preventDefault()
    const wanted = input.current.value.trim().toLowerCase()
    const device = wanted && (model.devices.get(wanted) ?? model.devicesInOrder.find(({ name }) => name.includes(wanted)))
    const card = device && document.getElementById(`device-${device.name}`)
    input.current.setCustomValidity(card ? "" : `no device has ${wanted} in its name`)
    if (!card) return input.current.reportValidity()
    card.scrollIntoView({ block: "center" })
    card.focus()
  }
  return html`<form role="search" onSubmit=${find} noValidate><input ref=${input} type="search" list="names" placeholder="find /" size="8"
      aria-label="find a device" onInput=${(event) => event.target.setCustomValidity("")} />
    <datalist id="names">${model.devicesInOrder.map(({ name }) => html`<option key=${name} value=${name} />`)}</datalist></form>`
}

const isRed = () => document.body.classList.contains("red")

function toggleRed() {
  document.body.classList.toggle("red")
  localStorage.setItem("red", isRed() ? "yes" : "")
  changed("tick", "plot")
}

// --- the page -------------------------------------------------------------------------------------------------

// Why nobody is in, and what to do about it.
function Away() {
  useModel("session")
  if (model.link === "in") return null
  const { protocol, hostname, port } = location
  const here = `${protocol}//${hostname}:${port || (protocol === "https:" ? 443 : 80)}`
  const elsewhere = model.instrument?.origins && !model.instrument.origins.includes(here)
  if (elsewhere) {
    const [first] = model.instrument.origins
    return html`<p class="away" role="alert">The router lets in only pages from its own addresses, and this page is from ${here}.
      Open <a href=${first}>${first}</a>.</p>`
  }
  if (model.link === "refused") {
    return html`<p class="away" role="alert">${model.reason}. <button onClick=${() => open({ kind: "sign-in" })}>Sign in</button></p>`
  }
  if (model.link === "failed") return html`<p class="away" role="alert">${model.reason}. Load the page again afterwards.</p>`
  return html`<p class="away" role="alert">${model.reason ? `There is no router: ${model.reason}. ` : "Joining the router… "}
    ${model.reason && "It is tried again until it answers. Nothing here is of now."}</p>`
}

function Page() {
  useModel("instrument", "wide")
  const beside = html`<${Beside} key="beside" />`
  return html`<${Bar} /><${Alarms} /><${Away} />
    <main class=${WIDE.matches ? "wide" : ""}>
      <div class="first"><${Heads} />${!WIDE.matches && beside}<${History} /><${Cards} /></div>
      ${WIDE.matches && beside}
    </main><${Dialog} />`
}

// The tab says the same as the page.
function Tab() {
  useModel("session", "alarms", "tick")
  const { state, number } = verdict()
  const title = `${number ? `(${number}) ` : state === "cut" ? "(no router) " : ""}${(model.instrument?.title || "HiPERCAM").split(" on ")[0]}`
  useEffect(() => {
    document.title = title
    document.body.classList.toggle("cut", state === "cut")
    const shape = { ok: "<circle cx='8' cy='8' r='5'", warn: "<path d='M8 1 15 15H1z'", err: "<path d='M8 0 16 8 8 16 0 8z'", cut: "<path d='M2 2 14 14M14 2 2 14' stroke='#98a3b3' stroke-width='3'" }[state]
    document.querySelector("link[rel=icon]").href = `data:image/svg+xml,${encodeURIComponent(
      `<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>${shape} fill='${COLOURS[state]}'/></svg>`)}`
  }, [title, state])
  return null
}

if (window.top !== window) {
  document.body.textContent = "The panel does not run inside of another page."
} else {
  if (localStorage.getItem("red")) document.body.classList.add("red")
  render(html`<${Page} /><${Tab} />`, document.body)
  start().catch((error) => {
    model.link = "failed"
    model.reason = error.message
    changed("session")
  })
}
