import { describe, expect, it } from "vitest";
import { ApixError } from "../src/index.js";
import { encodeJson, JsonText, memberText, memberTexts, ObjectText } from "../src/json-text.js";

describe("exact texts", () => {
  const values = [
    "null",
    "0",
    "-1.50e+3",
    "9007199254740993123",
    "true",
    '""',
    '"a\\"b\\\\"',
    '"]},{[\\\\"',
    '{ "payload" : 1, "b":[ {}, [] ] }',
    '[1 , "payload", {"payload":"x"}]',
    '"\\ud800"',
    '"ünïcödé \u{1f600}"',
    `${"[".repeat(50_000)}${"]".repeat(50_000)}`,
  ];

  it.each(values)("of %.40s are found wherever they stand", (value) => {
    for (const space of ["", " ", "\n\t"]) {
      const one = `{"id":"}",${space}"payload"${space}:${space}${value}${space},"z":[1,{"payload":2}]}`;
      expect(memberText(one, "payload")).toBe(value);
      const list = `{"next":null,"events":${space}[${one},${space}${one}${space}],"payload":3}`;
      expect(memberTexts(list, "events", "payload")).toEqual([value, value]);
    }
  });

  it("are none where there is no such member", () => {
    expect(memberTexts('{"events":[]}', "events", "payload")).toEqual([]);
    expect(memberTexts('{"events":[{}]}', "events", "payload")).toEqual([undefined]);
    expect(memberTexts("{}", "events", "payload")).toEqual([]);
    expect(memberText('{"payloads":1}', "payload")).toBeUndefined();
  });

  it("are those that JSON.parse takes of a repeated member", () => {
    expect(memberText('{"payload":1,"payload":2}', "payload")).toBe("2");
  });
});

describe("writing", () => {
  it("leaves out what is undefined", () => {
    const text = new ObjectText().value("a", 1).value("b", undefined).raw("c", "[ ]").end();
    expect(text).toBe('{"a":1,"c":[ ]}');
    expect(new ObjectText().end()).toBe("{}");
  });

  it("sends JsonText as it is", () => {
    const text = '{ "n": 12345678901234567890 }';
    expect(encodeJson("payload", new JsonText(text))).toBe(text);
    expect(() => new JsonText("{")).toThrow(ApixError);
  });

  it("refuses what is no JSON, by name", () => {
    const cycle: any[] = [];
    cycle.push(cycle);
    for (const wrong of [undefined, () => 1, Symbol("x"), 10n, cycle]) {
      expect(() => encodeJson("payload", wrong)).toThrow(/^payload/);
    }
  });
});
