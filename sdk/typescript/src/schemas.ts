import type { components } from "./wire.js";

/** What goes over HTTP, by its name in the OpenAPI document. */
export type Schemas = components["schemas"];
