import { afterEach, describe, expect, it } from "vitest";
import { GiveUp, type ProcessedEvent, RetryAfter, TenantMessagingService, Worker, type WorkerOptions } from "../src/index.js";
import { type PrivateApix, startApix } from "../src/testing.js";
import { until } from "./until.js";

const context = { organizationId: "test" };
const endings: (() => unknown)[] = [];

afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});

async function begin(options = {}): Promise<{ apix: PrivateApix; messaging: TenantMessagingService }> {
  const apix = await startApix(options);
  const messaging = new TenantMessagingService({ url: apix.url, token: () => apix.token });
  endings.push(() => apix.stop(), () => messaging.close());
  return { apix, messaging };
}

function add(messaging: TenantMessagingService, count: number): Promise<string[]> {
  return Promise.all(
    [...Array(count).keys()].map((payload) => messaging.addEventToStream(context, "jobs", { eventType: "job", payload })),
  );
}

const group = (messaging: TenantMessagingService) => messaging.administration.groupStats(context, "jobs", "processors");

describe("a worker", () => {
  const options: WorkerOptions = { context, streamName: "jobs", onError: () => {} };

  it("handles 100,000 events, each once, within its concurrency", async () => {
    const { messaging } = await begin();
    const total = 100_000;
    await add(messaging, total);
    const handled = new Uint8Array(total);
    let now = 0;
    let most = 0;
    let count = 0;
    const worker = new Worker<number>(messaging, { ...options, concurrency: 64 }, async ({ payload }) => {
      most = Math.max(most, ++now);
      await Promise.resolve();
      handled[payload]! += 1;
      count += 1;
      now -= 1;
    });
    const running = worker.run();
    await until("all are handled", () => count === total, 50_000);
    const report = await worker.stop();
    expect(await running).toEqual(report);
    expect(report).toEqual({ handled: total, failed: 0 });
    expect(handled.every((times) => times === 1)).toBe(true);
    expect(most).toBeGreaterThan(1);
    expect(most).toBeLessThanOrEqual(64);
    expect(await group(messaging)).toMatchObject({ pending: 0, lag: 0, deadLetters: 0 });
  });

  it("tries again what fails, with a delay, and gives up what it is told to", async () => {
    const { messaging } = await begin();
    await messaging.administration.configureGroup(context, "jobs", "processors", {
      maxDeliveries: 3,
      backoff: { baseMs: 20, maxMs: 20 },
    });
    await add(messaging, 5);
    const attempts = new Map<number, number[]>();
    const failures: [number, string][] = [];
    const worker = new Worker<number>(
      messaging,
      {
        ...options,
        retryDelayMs: (event) => (event.payload === 2 ? 300 : undefined),
        onError: (error, event) => failures.push([event!.payload, (error as Error).message]),
      },
      ({ payload }) => {
        const times = attempts.get(payload) ?? [];
        attempts.set(payload, [...times, Date.now()]);
        if (payload === 0) throw new GiveUp("no use");
        if (payload === 1) throw new Error("always");
        if (payload === 2 && times.length === 0) throw new Error("once");
        if (payload === 3 && times.length === 0) throw new RetryAfter(500, "not yet");
      },
    );
    void worker.run();
    await until("two are dead and the rest is done", async () => {
      const { deadLetters, pending, parked, lag } = await group(messaging);
      return deadLetters === 2 && pending + parked + lag! === 0;
    });
    await worker.stop();
    const times = (payload: number) => attempts.get(payload)!;
    expect([0, 1, 2, 3, 4].map((n) => times(n).length)).toEqual([1, 3, 2, 2, 1]);
    expect(times(2)[1]! - times(2)[0]!).toBeGreaterThanOrEqual(290);
    expect(times(3)[1]! - times(3)[0]!).toBeGreaterThanOrEqual(490);
    expect(failures.filter(([n]) => n === 1)).toHaveLength(3);
    const letters = await messaging.listDeadLetters(context, "jobs");
    expect(letters.map(({ event, reason }) => [event!.payload, reason])).toEqual([[0, "no use"], [1, "always"]]);
    expect(letters[1]!.attempts).toHaveLength(3);
  });

  it("holds what it handles for as long as that takes", async () => {
    const { messaging } = await begin();
    await messaging.administration.configureGroup(context, "jobs", "processors", { leaseMs: 1_000 });
    await add(messaging, 1);
    let runs = 0;
    const worker = new Worker(messaging, options, async () => {
      runs += 1;
      await new Promise((resolve) => setTimeout(resolve, 3_500));
    });
    const other = new Worker(messaging, options, () => {
      runs += 100;
    });
    void worker.run();
    await until("it is being handled", () => runs === 1);
    void other.run();
    await worker.stop();
    await other.stop();
    expect(runs).toBe(1);
    expect((await group(messaging)).pending).toBe(0);
  });

  it("aborts the handler whose lease was lost, and does not settle for it", async () => {
    const { messaging } = await begin();
    await messaging.administration.configureGroup(context, "jobs", "processors", { leaseMs: 200 });
    await add(messaging, 1);
    let aborted: unknown;
    const errors: unknown[] = [];
    const watched = new Worker(messaging, { ...options, onError: (error) => errors.push(error) }, (_event, { signal }) =>
      new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject((aborted = signal.reason)))),
    );
    void watched.run();
    await until("it is being handled", async () => (await group(messaging)).pending === 1);
    await messaging.seekGroup(context, "jobs", "end");
    await until("the handler is told", () => aborted !== undefined);
    await watched.stop();
    expect(String(aborted)).toMatch(/lease was lost/);
    expect(errors).toHaveLength(1);
  });

  it("stops after what it has begun, and gives back the rest after its time", async () => {
    const { messaging } = await begin();
    await add(messaging, 10);
    const started: ProcessedEvent<number>[] = [];
    const worker = new Worker<number>(messaging, { ...options, concurrency: 2 }, async (event) => {
      started.push(event);
      await new Promise((resolve) => setTimeout(resolve, started.length <= 2 ? 5_000 : 0));
    });
    void worker.run();
    await until("two are being handled", () => started.length === 2);
    const before = Date.now();
    await worker.stop({ timeoutMs: 100 });
    expect(Date.now() - before).toBeLessThan(3_000);
    expect(started).toHaveLength(2);
    const rest = await messaging.processEventsFromStream<number>(context, "jobs", "other", 10);
    expect(rest.map(({ payload }) => payload).sort()).toEqual([2, 3, 4, 5, 6, 7, 8, 9]);
    expect(await new Worker(messaging, options, () => {}).stop()).toEqual({ handled: 0, failed: 0 });
  });

  it("survives restarts of the server", async () => {
    const { apix, messaging } = await begin({ durable: true });
    // A read whose answer is lost is made good when its leases have ended.
    await messaging.administration.configureGroup(context, "jobs", "processors", { leaseMs: 1_000 });
    await add(messaging, 2_000);
    const handled = new Set<number>();
    const worker = new Worker<number>(messaging, { ...options, concurrency: 20 }, async ({ payload }) => {
      await new Promise((resolve) => setTimeout(resolve, 2));
      handled.add(payload);
    });
    void worker.run();
    for (const share of [500, 1_000, 1_500]) {
      await until("it is at work", () => handled.size >= share);
      await apix.restart({ kill: share === 1_000 });
    }
    await until("all are handled", () => handled.size === 2_000);
    await worker.stop();
  });

  it("ends with the reason where it may not read", async () => {
    const { apix } = await begin();
    const messaging = new TenantMessagingService({ url: apix.url, token: () => apix.tokenFor({ permissions: [] }) });
    await expect(new Worker(messaging, options, () => {}).run()).rejects.toMatchObject({ code: "permission_denied" });
    expect(() => new Worker(messaging, { ...options, concurrency: 0 }, () => {})).toThrow(/concurrency/);
  });
});
