import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ApixError, JsonText, type StoredEvent, type TenantContext, TenantMessagingService } from "../src/index.js";
import { type PrivateApix, startApix } from "../src/testing.js";
import { until } from "./until.js";

let apix: PrivateApix;
let messaging: TenantMessagingService;
let tenants = 0;
const tenant = (): TenantContext => ({ organizationId: `t${++tenants}` });

beforeAll(async () => {
  apix = await startApix();
  messaging = new TenantMessagingService({ url: apix.url, serviceKey: apix.serviceKey });
});

afterAll(async () => {
  messaging.close();
  await apix.stop();
});

async function collect<T>(events: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const event of events) all.push(event);
  return all;
}

describe("adding", () => {
  it("keeps the order of the calls, with every field", async () => {
    const context = { ...tenant(), userId: "änna" };
    const at = new Date("2026-01-02T03:04:05.678Z");
    const ids = await Promise.all(
      [...Array(2_500).keys()].map((n) =>
        messaging.addEventToStream(context, "orders", {
          eventType: "order.placed",
          payload: { n },
          timestamp: at,
          organizationId: context.organizationId,
          metadata: { source: "test" },
          key: `k${n % 3}`,
        }),
      ),
    );
    const events = await collect(messaging.replayEvents(context, "orders"));
    expect(events.map(({ messageId }) => messageId)).toEqual(ids);
    expect(events.map(({ payload }) => payload.n)).toEqual([...Array(2_500).keys()]);
    expect(events[7]).toEqual({
      messageId: ids[7],
      eventType: "order.placed",
      payload: { n: 7 },
      payloadText: '{"n":7}',
      timestamp: "2026-01-02T03:04:05.678Z",
      organizationId: context.organizationId,
      userId: "änna",
      metadata: { source: "test" },
      key: "k1",
    });
  });

  it("fails only what is wrong, when many go out together", async () => {
    const context = tenant();
    const outcomes = await Promise.allSettled(
      [...Array(50).keys()].map((n) =>
        messaging.addEventToStream(context, "mixed", {
          eventType: n === 10 ? "" : "t",
          payload: n === 20 ? "x".repeat(1_100_000) : n,
          ...(n === 30 || n === 31 ? { idempotencyKey: "same" } : {}),
          ...(n === 40 ? { organizationId: "other" } : {}),
          ...(n === 45 ? { payload: undefined } : {}),
        }),
      ),
    );
    const failed = outcomes.flatMap((outcome, n) =>
      outcome.status === "rejected" ? [[n, (outcome.reason as ApixError).code]] : [],
    );
    expect(failed).toEqual([
      [10, "invalid_request"],
      [20, "too_large"],
      [31, "idempotency_conflict"],
      [40, "tenant_mismatch"],
      [45, "invalid_request"],
    ]);
    expect(await collect(messaging.replayEvents(context, "mixed"))).toHaveLength(45);
  });

  it("adds a batch as a whole or not at all", async () => {
    const context = tenant();
    const good = { eventType: "t", payload: 1 };
    expect(await messaging.addEventsToStream(context, "s", [good, good])).toHaveLength(2);
    expect(await messaging.addEventsToStream(context, "s", [])).toEqual([]);
    const wrong = messaging.addEventsToStream(context, "s", [good, { eventType: "", payload: 1 }]);
    await expect(wrong).rejects.toMatchObject({ code: "invalid_request", status: 400 });
    expect(await collect(messaging.replayEvents(context, "s"))).toHaveLength(2);
  });

  it("returns the first id of a repeated idempotency key", async () => {
    const context = tenant();
    const event = { eventType: "t", payload: { a: 1 }, idempotencyKey: "k" };
    const first = await messaging.addEventToStream(context, "s", event);
    expect(await messaging.addEventToStream(context, "s", event)).toBe(first);
  });

  it("keeps payloads byte for byte", async () => {
    const context = tenant();
    const text = '{ "big": 12345678901234567890123, "dup":1,"dup":2, "u": "\\u00e9\\ud83d\\ude00é" }';
    await messaging.addEventToStream(context, "s", { eventType: "t", payload: new JsonText(text) });
    const [delivered] = await messaging.processEventsFromStream(context, "s", "c");
    const [replayed] = await collect(messaging.replayEvents(context, "s"));
    expect(delivered?.payloadText).toBe(text);
    expect(replayed?.payloadText).toBe(text);
    expect(delivered?.payload.u).toBe("é😀é");
  });

  it("names what is wrong before anything is sent", async () => {
    const add = (context: any, event: any, stream = "s") => messaging.addEventToStream(context, stream, event);
    await expect(add({}, { eventType: "t", payload: 1 })).rejects.toThrow(/organizationId/);
    await expect(add(tenant(), {})).rejects.toThrow(/eventType/);
    await expect(add(tenant(), { eventType: "t", payload: 1, timestamp: new Date("x") })).rejects.toThrow(/timestamp/);
    await expect(add(tenant(), { eventType: "t", payload: 1 }, "..")).rejects.toMatchObject({ code: "invalid_name" });
    await expect(add(tenant(), { eventType: "t", payload: 1 }, "a/b?c")).rejects.toMatchObject({ code: "invalid_name" });
  });
});

describe("groups", () => {
  const event = (payload: unknown) => ({ eventType: "t", payload });

  it("hand out, acknowledge and reject", async () => {
    const context = tenant();
    await messaging.addEventsToStream(context, "s", [1, 2, 3].map(event));
    const [one, two, three] = await messaging.processEventsFromStream<number>(context, "s", "c1", 3);
    expect([one?.deliveryCount, one?.group, one?.consumer]).toEqual([1, "processors", "c1"]);
    await messaging.acknowledgeEvent(context, "s", one!.messageId);
    // A repeat does no harm.
    await messaging.acknowledgeEvent(context, "s", one!.messageId);
    const rejected = await messaging.rejectEvent(context, "s", two!, { reason: "later", retryAfterMs: 0 });
    expect(Date.parse(rejected.retryAt!)).toBeGreaterThan(Date.now() - 60_000);
    expect(await messaging.rejectEvent(context, "s", three!, { reason: "never", deadLetter: true })).toEqual({
      deadLettered: true,
    });
    const again = await messaging.processEventsFromStream<number>(context, "s", "c2", 3);
    expect(again.map(({ payload, deliveryCount }) => [payload, deliveryCount])).toEqual([[2, 2]]);
    await expect(messaging.rejectEvent(context, "s", two!, {})).rejects.toMatchObject({ code: "lease_lost" });
    // c1 holds it no longer: acknowledging as c1 does not touch c2's delivery.
    const late = messaging.acknowledgeEvent(context, "s", two!.messageId, { consumerName: "c1" });
    await expect(late).rejects.toMatchObject({ code: "lease_lost" });
    const stats = await messaging.administration.groupStats(context, "s", "processors");
    expect([stats.pending, stats.deadLetters, stats.lag]).toEqual([1, 1, 0]);
  });

  it("fail only the acknowledgement that is wrong", async () => {
    const context = tenant();
    await messaging.addEventsToStream(context, "s", [1, 2].map(event));
    const [one, two] = await messaging.processEventsFromStream(context, "s", "c1");
    const outcomes = await Promise.allSettled(
      [one!.messageId, "nonsense", two!.messageId].map((id) => messaging.acknowledgeEvent(context, "s", id)),
    );
    expect(outcomes.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect((await messaging.administration.groupStats(context, "s", "processors")).pending).toBe(0);
  });

  it("keep dead letters to look at, hand out again or drop", async () => {
    const context = tenant();
    await messaging.addEventsToStream(context, "s", [{ eventType: "t", payload: new JsonText("{ }") }, event(2)]);
    for (const delivery of await messaging.processEventsFromStream(context, "s", "c1")) {
      await messaging.rejectEvent(context, "s", delivery, { reason: "broken", deadLetter: true });
    }
    const letters = await messaging.listDeadLetters(context, "s");
    expect(letters).toHaveLength(2);
    expect(letters[0]).toMatchObject({
      reason: "broken",
      attempts: [{ consumer: "c1", reason: "broken" }],
      event: { payload: {}, payloadText: "{ }" },
    });
    const rest = await messaging.listDeadLetters(context, "s", { after: letters[0]!.messageId, limit: 5 });
    expect(rest.map(({ messageId }) => messageId)).toEqual([letters[1]!.messageId]);
    expect(await messaging.retryDeadLetters(context, "s", { messageIds: [letters[0]!.messageId] })).toBe(1);
    expect(await messaging.discardDeadLetters(context, "s", { all: true })).toBe(1);
    const [again] = await messaging.processEventsFromStream(context, "s", "c1");
    expect([again?.messageId, again?.deliveryCount]).toEqual([letters[0]!.messageId, 1]);
  });

  it("can be set to another place", async () => {
    const context = tenant();
    await messaging.addEventsToStream(context, "s", [1, 2, 3].map(event));
    const group = "g";
    const read = () => messaging.processEventsFromStream<number>(context, "s", "c", 10, { group, waitMs: 0 });
    expect(await read()).toHaveLength(3);
    await messaging.seekGroup(context, "s", "start", { group });
    const again = await read();
    expect(again).toHaveLength(3);
    await messaging.seekGroup(context, "s", again[1]!.messageId, { group });
    expect((await read()).map(({ payload }) => payload)).toEqual([2, 3]);
    await messaging.seekGroup(context, "s", "end", { group });
    expect(await read()).toEqual([]);
    await messaging.seekGroup(context, "s", new Date(Date.now() - 3_600_000), { group });
    expect(await read()).toHaveLength(3);
    await expect(messaging.seekGroup(context, "s", "sideways", { group })).rejects.toMatchObject({
      code: "invalid_request",
    });
  });

  it("extend the leases of what is not settled, up to a maximum", async () => {
    const context = tenant();
    await messaging.administration.configureGroup(context, "s", "processors", { leaseMs: 1_000 });
    await messaging.addEventsToStream(context, "s", [1, 2].map(event));
    const lost: string[] = [];
    const [held, done] = await messaging.processEventsFromStream(context, "s", "c1", 10, {
      maxHoldMs: 2_500,
      onLeaseLost: (ids) => lost.push(...ids),
    });
    await messaging.acknowledgeEvent(context, "s", done!.messageId);
    const start = Date.now();
    let other: any;
    await until("the event goes to another consumer", async () => {
      [other] = await messaging.processEventsFromStream(context, "s", "c2", 10, { waitMs: 100, maxHoldMs: 0 });
      return other !== undefined;
    });
    expect(other.messageId).toBe(held!.messageId);
    expect(other.deliveryCount).toBe(2);
    // Far beyond the lease, and not much beyond the maximum and one lease.
    expect(Date.now() - start).toBeGreaterThan(2_000);
    expect(Date.now() - start).toBeLessThan(10_000);
    expect(await messaging.extendLease(context, "s", held!, 1_000)).toEqual([held!.messageId]);
    expect(await messaging.extendLease(context, "s", [other], 5_000)).toEqual([]);
  });

  it("and streams are configured, listed and deleted", async () => {
    const context = tenant();
    const { administration } = messaging;
    await administration.configureStream(context, "b", { retention: { maxLen: 5 } });
    await messaging.addEventToStream(context, "a", event(1));
    expect((await administration.listStreams(context)).map(({ stream }) => stream)).toEqual(["a", "b"]);
    expect((await administration.streamStats(context, "b")).retention.maxLen).toBe(5);
    await administration.configureGroup(context, "a", "g", { maxDeliveries: 2 });
    expect((await administration.groupStats(context, "a", "g")).maxDeliveries).toBe(2);
    await administration.deleteGroup(context, "a", "g");
    await administration.deleteStream(context, "b");
    await expect(administration.groupStats(context, "a", "g")).rejects.toMatchObject({ code: "not_found", status: 404 });
    await expect(administration.streamStats(context, "b")).rejects.toMatchObject({ code: "not_found" });
  });
});

describe("replay", () => {
  it("takes bounds, a type, a limit and an order", async () => {
    const context = tenant();
    const ids = await messaging.addEventsToStream(
      context,
      "s",
      [...Array(1_500).keys()].map((n) => ({ eventType: n % 2 ? "odd" : "even", payload: n })),
    ).catch(() => []);
    expect(ids).toEqual([]); // more than a batch may hold
    const all = await Promise.all(
      [...Array(1_500).keys()].map((n) =>
        messaging.addEventToStream(context, "s", { eventType: n % 2 ? "odd" : "even", payload: n }),
      ),
    );
    const numbers = async (options: object) =>
      (await collect(messaging.replayEvents<number>(context, "s", options))).map(({ payload }) => payload);
    expect(await numbers({ eventType: "odd" })).toHaveLength(750);
    expect(await numbers({ from: `(${all[3]}`, to: all[6] })).toEqual([4, 5, 6]);
    expect(await numbers({ order: "desc", limit: 3 })).toEqual([1_499, 1_498, 1_497]);
    expect(await numbers({ from: new Date(Date.now() + 60_000) })).toEqual([]);
    await expect(numbers({ limit: 0 })).rejects.toMatchObject({ code: "invalid_request" });
    await expect(numbers({ from: "nonsense" })).rejects.toMatchObject({ code: "invalid_request" });
  });

  it("can be left early, and ended by a signal", async () => {
    const context = tenant();
    await messaging.addEventsToStream(context, "s", [...Array(1_000).keys()].map((payload) => ({ eventType: "t", payload })));
    for await (const event of messaging.replayEvents(context, "s")) {
      if (event.payload === 5) break;
    }
    const controller = new AbortController();
    const seen: StoredEvent[] = [];
    const reading = (async () => {
      for await (const event of messaging.replayEvents(context, "s", { signal: controller.signal })) {
        seen.push(event);
        if (seen.length === 10) controller.abort(new Error("enough"));
      }
    })();
    await reading.catch((error: Error) => expect(error.message).toBe("enough"));
    expect(seen.length).toBeGreaterThanOrEqual(10);
  });
});

describe("tenants", () => {
  it("see nothing of one another", async () => {
    const [a, b] = [tenant(), tenant()];
    await messaging.addEventToStream(a, "s", { eventType: "t", payload: 1 });
    await expect(collect(messaging.replayEvents(b, "s"))).rejects.toMatchObject({ code: "not_found" });
    expect(await messaging.administration.listStreams(b)).toEqual([]);
  });

  it("are those of the token, or the call is refused", async () => {
    const own = new TenantMessagingService({ url: apix.url, token: () => apix.token });
    const wrong = own.addEventToStream({ organizationId: "elsewhere" }, "s", { eventType: "t", payload: 1 });
    await expect(wrong).rejects.toMatchObject({ code: "tenant_mismatch", status: 403 });
    const limited = new TenantMessagingService({
      url: apix.url,
      token: () => apix.tokenFor({ permissions: ["streams:read:*"] }),
    });
    const refused = limited.addEventToStream({ organizationId: "test" }, "s", { eventType: "t", payload: 1 });
    await expect(refused).rejects.toMatchObject({ code: "permission_denied", status: 403, retryable: false });
    await expect(refused).rejects.toBeInstanceOf(ApixError);
  });
});
