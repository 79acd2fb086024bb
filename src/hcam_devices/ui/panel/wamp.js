// A WAMP session in a browser: join, call, subscribe, over JSON.
//
// A browser cannot ping, and a frozen router keeps its connections. So a session asks the router
// a question when it has heard nothing for ASK_AFTER, and has ended after SILENT_AFTER.

const HELLO = 1, WELCOME = 2, ABORT = 3, CHALLENGE = 4, AUTHENTICATE = 5, GOODBYE = 6, ERROR = 8
const SUBSCRIBE = 32, SUBSCRIBED = 33, UNSUBSCRIBE = 34, UNSUBSCRIBED = 35, EVENT = 36, CALL = 48, RESULT = 50

const ASK_AFTER = 4000, SILENT_AFTER = 8000, LOOK_EVERY = 1000, JOIN_WITHIN = 8000 // ms
const LATE = 3000 // a laptop slept, or a hidden page's timers did: its clock proves nothing

// A question was refused: `uri` says by whom and why, the message is a sentence.
export class Refused extends Error {
  constructor(uri, args = [], kwargs = {}) {
    super(args.filter((part) => typeof part === "string").join(" ") || kwargs?.message || uri)
    this.uri = uri
  }
}

// No answer came: a command may have been carried out. It is never sent again.
export class OutcomeUnknown extends Error {}

export class Session {
  // Return a promise of a joined session. `who` is {name, secret}, or null to join without a name.
  // `onEnd(reason)` is called once, when a joined session has ended, for whatever reason.
  static join(url, realm, who, onEnd) {
    return new Promise((resolve, reject) => new Session(url, realm, who, onEnd, resolve, reject))
  }

  constructor(url, realm, who, onEnd, resolve, reject) {
    Object.assign(this, { who, onEnd, resolve, reject })
    this.request = 0
    this.waiting = new Map() // request -> {resolve, reject}
    this.handlers = new Map() // subscription -> handler
    this.early = new Map() // subscription -> retained events that came before SUBSCRIBED
    this.heard = this.looked = performance.now()
    this.timer = setInterval(() => this.look(), LOOK_EVERY)
    this.socket = new WebSocket(url, ["wamp.2.json"])
    this.socket.onopen = () => this.send([HELLO, realm, {
      roles: { caller: {}, subscriber: {} },
      authmethods: [who ? "ticket" : "anonymous"],
      ...(who && { authid: who.name }),
    }])
    this.socket.onmessage = ({ data }) => this.hear(JSON.parse(data))
    this.socket.onclose = () => this.end("the router closed the connection")
  }

  send(message) {
    this.socket.send(JSON.stringify(message))
  }

  look() {
    const now = performance.now(), late = now - this.looked > LOOK_EVERY + LATE
    this.looked = now
    if (late) this.heard = now - ASK_AFTER
    const silent = now - this.heard
    if (silent > (this.joined ? SILENT_AFTER : JOIN_WITHIN)) {
      this.end(`the router has said nothing for ${Math.round(silent / 1000)} s`)
    } else if (this.joined && silent >= ASK_AFTER) {
      this.call("wamp.session.count").catch(() => {})
    }
  }

  hear(message) {
    this.heard = performance.now()
    const [type, request] = message
    if (type === EVENT) {
      const [, subscription, , , args = [], kwargs = {}] = message
      const handler = this.handlers.get(subscription)
      if (handler) handler(args[0], kwargs)
      else this.early.set(subscription, [...(this.early.get(subscription) ?? []), args[0]])
    } else if (type === RESULT) {
      this.settle(request)?.resolve(message[3]?.[0] ?? null)
    } else if (type === SUBSCRIBED || type === UNSUBSCRIBED) {
      this.settle(request)?.resolve(message[2])
    } else if (type === ERROR) {
      this.settle(message[2])?.reject(new Refused(message[4], message[5], message[6]))
    } else if (type === CHALLENGE) {
      this.send([AUTHENTICATE, this.who?.secret ?? "", {}])
    } else if (type === WELCOME) {
      this.joined = true
      this.role = message[2].authrole
      this.name = this.who?.name ?? null
      this.resolve(this)
    } else if (type === ABORT || type === GOODBYE) {
      this.refusal = new Refused(message[2], [message[1].message ?? message[2]])
      this.end(this.refusal.message)
    }
  }

  settle(request) {
    const waiting = this.waiting.get(request)
    this.waiting.delete(request)
    return waiting
  }

  ask(message) {
    return new Promise((resolve, reject) => {
      if (this.ended) throw new Refused("offline", ["there is no router; nothing was sent"])
      const request = ++this.request
      this.waiting.set(request, { resolve, reject })
      this.send([message[0], request, ...message.slice(1)])
    })
  }

  // Call a procedure. Rejects with Refused, or with OutcomeUnknown if no answer came in time.
  call(procedure, args = [], kwargs = {}, within = 60) {
    const answer = this.ask([CALL, {}, procedure, args, kwargs])
    const request = this.request
    const deadline = setTimeout(() => this.settle(request)?.reject(new OutcomeUnknown(
      `There was no answer within ${within} s. It may have been carried out: look before you repeat it.`,
    )), within * 1000)
    const done = () => clearTimeout(deadline)
    answer.then(done, done)
    return answer
  }

  // Subscribe to a topic; return what ends the subscription.
  async subscribe(topic, handler, options = {}) {
    const subscription = await this.ask([SUBSCRIBE, options, topic])
    this.handlers.set(subscription, handler)
    this.early.get(subscription)?.forEach((event) => handler(event))
    this.early.delete(subscription)
    return () => {
      this.handlers.set(subscription, () => {}) // for events that are on their way
      return this.ask([UNSUBSCRIBE, subscription])
    }
  }

  // End the session. A socket to a frozen router never says that it is closed, so don't wait for it.
  end(reason) {
    if (this.ended) return
    this.ended = true
    clearInterval(this.timer)
    this.socket.onclose = this.socket.onmessage = null
    this.socket.close()
    for (const { reject } of this.waiting.values()) {
      reject(new OutcomeUnknown("The connection was lost before an answer came. It may have been "
        + "carried out: look before you repeat it."))
    }
    if (this.joined) this.onEnd(reason)
    else this.reject(this.refusal ?? new Error(reason))
  }
}
