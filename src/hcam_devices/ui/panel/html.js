// Templates without a build.

import { h } from "preact"
import htm from "./vendor/htm.mjs"

export const html = htm.bind(h)
