import { invalid } from "./error.js";

/**
 * JSON that is sent exactly as it is written: for numbers beyond 2^53, or to pass on a
 * `payloadText` without a change.
 */
export class JsonText {
  constructor(readonly text: string) {
    try {
      JSON.parse(text);
    } catch (fault) {
      throw invalid(`JsonText: ${(fault as Error).message}`);
    }
  }

  toString(): string {
    return this.text;
  }
}

/** `value` as JSON text; `what` names it where it has none. */
export function encodeJson(what: string, value: unknown): string {
  if (value instanceof JsonText) return value.text;
  let text: string | undefined;
  try {
    text = JSON.stringify(value);
  } catch (fault) {
    throw invalid(`${what} cannot be written as JSON: ${(fault as Error).message}`);
  }
  if (text === undefined) throw invalid(`${what} is missing or has no form in JSON`);
  return text;
}

/** Writes one JSON object, leaving out what is undefined. */
export class ObjectText {
  private text = "";

  /** Adds text that is JSON already. */
  raw(name: string, json: string | undefined): this {
    if (json !== undefined) this.text += `${this.text === "" ? "" : ","}"${name}":${json}`;
    return this;
  }

  value(name: string, value: string | number | boolean | undefined): this {
    return this.raw(name, value === undefined ? undefined : JSON.stringify(value));
  }

  end(): string {
    return `{${this.text}}`;
  }
}

/**
 * The exact text of member `member` of every object in the array that stands under `list` in
 * `text`. `text` must be valid JSON: it was parsed before.
 */
export function memberTexts(text: string, list: string, member: string): (string | undefined)[] {
  const array = memberStart(text, skipSpace(text, 0), list);
  if (array === undefined) return [];
  const found: (string | undefined)[] = [];
  let at = skipSpace(text, array + 1);
  while (text[at] !== "]" && at < text.length) {
    found.push(memberText(text, member, at));
    at = skipSpace(text, endOfValue(text, at));
    if (text[at] === ",") at = skipSpace(text, at + 1);
  }
  return found;
}

/** The exact text of one member of the object that begins at `start`. */
export function memberText(text: string, member: string, start = skipSpace(text, 0)): string | undefined {
  const at = memberStart(text, start, member);
  return at === undefined ? undefined : text.slice(at, endOfValue(text, at));
}

/** Where the value of `member` begins; of several, the last, as JSON.parse takes it. */
function memberStart(text: string, start: number, member: string): number | undefined {
  if (text[start] !== "{") return undefined;
  const wanted = `"${member}"`;
  let found: number | undefined;
  let at = skipSpace(text, start + 1);
  while (text[at] !== "}" && at < text.length) {
    const nameEnd = endOfString(text, at);
    const value = skipSpace(text, skipSpace(text, nameEnd) + 1);
    if (nameEnd - at === wanted.length && text.startsWith(wanted, at)) found = value;
    at = skipSpace(text, endOfValue(text, value));
    if (text[at] === ",") at = skipSpace(text, at + 1);
  }
  return found;
}

function skipSpace(text: string, at: number): number {
  for (;;) {
    const code = text.charCodeAt(at);
    if (code !== 32 && code !== 10 && code !== 13 && code !== 9) return at;
    at += 1;
  }
}

/** Just past the string that begins at `at`. */
function endOfString(text: string, at: number): number {
  let end = at;
  for (;;) {
    end = text.indexOf('"', end + 1);
    if (end < 0) return text.length;
    let backslashes = 0;
    while (text.charCodeAt(end - 1 - backslashes) === 92) backslashes += 1;
    if (backslashes % 2 === 0) return end + 1;
  }
}

/** Just past the value that begins at `at`. Depth is counted, not recursed into. */
function endOfValue(text: string, at: number): number {
  const first = text.charCodeAt(at);
  if (first === 34) return endOfString(text, at);
  if (first !== 123 && first !== 91) {
    let end = at;
    while (end < text.length && !/[\s,\]}]/.test(text[end] as string)) end += 1;
    return end;
  }
  let depth = 0;
  while (at < text.length) {
    const code = text.charCodeAt(at);
    if (code === 34) {
      at = endOfString(text, at);
      continue;
    }
    if (code === 123 || code === 91) depth += 1;
    if ((code === 125 || code === 93) && --depth === 0) return at + 1;
    at += 1;
  }
  return at;
}
