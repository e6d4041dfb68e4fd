import { describe, expect, it } from "vitest";
import { Backoff, pause } from "../src/backoff.js";
import { contextKey } from "../src/context.js";
import { ApixError, userChannel } from "../src/index.js";
import { Gather, sendApart } from "../src/gather.js";
import { closing } from "../src/live/closing.js";
import { compareIds, PositionTracker } from "../src/live/position.js";

describe("back-off", () => {
  it("doubles its bound up to the longest, with full jitter", () => {
    const bounds = new Backoff(100, 1_000, () => 1);
    expect([0, 1, 2, 3, 4, 99].map((n) => bounds.delay(n))).toEqual([100, 200, 400, 800, 1_000, 1_000]);
    expect(new Backoff(100, 1_000, () => 0).delay(5)).toBe(0);
  });

  it("ends a pause with the signal", async () => {
    const controller = new AbortController();
    const paused = pause(60_000, controller.signal);
    controller.abort(new Error("enough"));
    await expect(paused).rejects.toThrow("enough");
    await expect(pause(0, controller.signal)).rejects.toThrow("enough");
  });
});

describe("contexts", () => {
  it("that differ in anything share nothing", () => {
    const one = { organizationId: "a", userId: "u" };
    expect(contextKey(one)).toBe(contextKey({ userId: "u", organizationId: "a" }));
    expect(contextKey(one)).toBe(contextKey({ ...one, roles: undefined }));
    for (const other of [{ ...one, userId: "v" }, { organizationId: "a" }, { ...one, roles: ["x"] }]) {
      expect(contextKey(other)).not.toBe(contextKey(one));
    }
  });

  it("name the channel of their user", () => {
    expect(userChannel({ organizationId: "a", userId: "anna@example.com" })).toBe("user:anna_40example.com");
    expect(userChannel({ organizationId: "a", userId: "ü_" })).toBe("user:_c3_bc_5f");
    expect(() => userChannel({ organizationId: "a" })).toThrow(/no userId/);
    expect(() => userChannel({ organizationId: "a", userId: "@".repeat(50) })).toThrow(/longer than 128/);
  });
});

describe("gathering", () => {
  const item = (size = 1) => ({ size });

  it("puts what one tick asks for into one request, and the rest into the next", async () => {
    const requests: number[] = [];
    let idle = 0;
    const gather = new Gather(
      { items: 3, characters: 100 },
      async (items: { size: number }[]) => {
        requests.push(items.length);
        return items.map(({ size }) => ({ ok: true as const, answer: size }));
      },
      () => {
        idle += 1;
      },
    );
    const answers = await Promise.all([1, 2, 3, 4].map((size) => gather.add(item(size))));
    expect(answers).toEqual([1, 2, 3, 4]);
    expect(requests).toEqual([3, 1]);
    await gather.add(item(1_000));
    expect(requests).toEqual([3, 1, 1]);
    await new Promise(setImmediate);
    expect(idle).toBe(1);
  });

  it("keeps to the size of a request", async () => {
    const requests: number[][] = [];
    const gather = new Gather(
      { items: 100, characters: 10 },
      async (items: { size: number }[]) => {
        requests.push(items.map(({ size }) => size));
        return items.map(() => ({ ok: true as const, answer: undefined }));
      },
      () => {},
    );
    await Promise.all([4, 6, 1, 20, 2].map((size) => gather.add(item(size))));
    expect(requests).toEqual([[4, 6], [1], [20], [2]]);
  });

  it("fails what is wrong alone", async () => {
    let requests = 0;
    const outcomes = await sendApart(
      [...Array(100).keys()],
      async (items) => {
        requests += 1;
        if (items.includes(13) || items.includes(77)) throw new Error("wrong");
        return items;
      },
      () => true,
    );
    expect(outcomes.flatMap((outcome, index) => (outcome.ok ? [] : [index]))).toEqual([13, 77]);
    expect(outcomes.flatMap((outcome) => (outcome.ok ? [outcome.answer] : []))).toHaveLength(98);
    expect(requests).toBeLessThan(30);
  });
});

describe("positions", () => {
  it("compare ids as numbers of any size", () => {
    expect(compareIds("9-0", "10-0")).toBeLessThan(0);
    expect(compareIds("10-2", "10-10")).toBeLessThan(0);
    expect(compareIds("18446744073709551615-1", "18446744073709551614-2")).toBeGreaterThan(0);
    expect(compareIds("5-5", "5-5")).toBe(0);
    expect(compareIds("5-5@1", "9-9@2")).toBeGreaterThan(0);
  });

  it("know what was seen, per stream and life", () => {
    const tracker = new PositionTracker();
    const message = (messageId: string, epoch = "e1") => ({
      channel: "c", type: "t", data: 1, timestamp: "", organizationId: "a", stream: "s", messageId, epoch,
    });
    expect(tracker.advance(message("5-0"))).toBe(true);
    expect(tracker.advance(message("5-0"))).toBe(false);
    expect(tracker.advance(message("4-0"))).toBe(false);
    expect(tracker.advance(message("4-0", "e2"))).toBe(true);
    expect(tracker.position).toEqual({ s: { id: "4-0", epoch: "e2" } });
  });
});

describe("close codes", () => {
  const circumstances = { renewable: true, refusals: 0, wasOpen: true };
  const of = (code: number, more = {}) => closing({ code, reason: "" }, { ...circumstances, ...more });

  it("say whether to come back", () => {
    expect(of(4001)).toMatchObject({ refused: true, soon: true, stop: undefined });
    expect(of(4001, { refusals: 1 }).stop?.code).toBe("unauthorized");
    expect(of(4001, { renewable: false }).stop?.code).toBe("unauthorized");
    expect(of(4002)).toMatchObject({ refused: true, soon: true });
    expect(of(4003).stop?.code).toBe("tenant_suspended");
    expect(of(4013).stop?.code).toBe("ended_by_operator");
    for (const code of [1001, 1006, 4008, 4009, 4010]) {
      expect(of(code)).toMatchObject({ refused: false, soon: false });
      expect(of(code).stop).toBeUndefined();
    }
  });

  it("take a refusal for what it says", () => {
    const refusal = (status: number, code: string) =>
      closing({ code: 1006, reason: "", refusal: new ApixError(code, "no", { status }) }, circumstances);
    expect(refusal(401, "unauthorized")).toMatchObject({ refused: true });
    expect(refusal(403, "permission_denied").stop?.code).toBe("permission_denied");
    expect(refusal(503, "shutting_down").stop).toBeUndefined();
  });
});

describe("errors", () => {
  it("carry what the server said", () => {
    const body = '{"error":{"code":"lease_lost","message":"gone","requestId":"r1"}}';
    const error = ApixError.fromAnswer(409, body, null);
    expect(error).toMatchObject({ name: "ApixError", code: "lease_lost", status: 409, requestId: "r1", retryable: false });
    expect(error).toBeInstanceOf(Error);
    expect(ApixError.fromAnswer(429, "", "2")).toMatchObject({ retryable: true, retryAfterMs: 2_000 });
    expect(ApixError.fromAnswer(503, '{"error":{"code":"shutting_down","message":""}}', "1")).toMatchObject({
      retryable: true,
      mayHaveTakenEffect: false,
    });
    expect(ApixError.fromAnswer(502, "<html>", null)).toMatchObject({
      code: "unavailable",
      retryable: true,
      mayHaveTakenEffect: true,
    });
  });
});
