import { ApixError } from "../error.js";

/** Stands in bundles for browsers where `node-socket.ts` stands in Node. */
export function openNodeSocket(): never {
  throw new ApixError("unsupported", "a service key is for servers; in a browser use a token");
}
