import { afterEach, describe, expect, it } from "vitest";
import { ApixError, type LiveMessage, type LiveState, type Missed, TenantMessagingService } from "../src/index.js";
import { type PrivateApix, startApix } from "../src/testing.js";
import { Proxy } from "./proxy.js";
import { until } from "./until.js";

const context = { organizationId: "test" };
const endings: (() => unknown)[] = [];

afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});

async function server(options = {}): Promise<PrivateApix> {
  const apix = await startApix(options);
  endings.push(() => apix.stop());
  return apix;
}

async function proxyTo(url: string): Promise<Proxy> {
  const proxy = await Proxy.to(url);
  endings.push(() => proxy.stop());
  return proxy;
}

type Options = ConstructorParameters<typeof TenantMessagingService>[0];

function service(url: string, apix: PrivateApix, more: Partial<Options> = {}): TenantMessagingService {
  const messaging = new TenantMessagingService({ url, token: () => apix.token, ...more } as Options);
  endings.push(() => messaging.close());
  return messaging;
}

const message = (data: unknown) => ({ type: "t", data });
const hybrid = { streamName: "s", realtimeChannel: "c" };

describe("a subscription", () => {
  it("gets what is published, in order, until it ends", async () => {
    const apix = await server();
    const proxy = await proxyTo(apix.url);
    const messaging = service(proxy.url, apix);
    const one: LiveMessage<number>[] = [];
    const two: LiveMessage<number>[] = [];
    const first = await messaging.subscribeToRealtimeMessages<number>(context, "c", (m) => one.push(m));
    const second = await messaging.subscribeToRealtimeMessages<number>(context, "c", (m) => two.push(m));
    const before = proxy.open;
    const direct = service(apix.url, apix);
    for (let n = 0; n < 100; n += 1) {
      expect(await direct.publishRealtimeMessage(context, "c", { ...message(n), userId: "u", organizationId: "test" })).toBe(1);
    }
    await until("all have come", () => one.length === 100 && two.length === 100);
    expect(one.map(({ data }) => data)).toEqual([...Array(100).keys()]);
    expect(one[0]).toEqual({
      channel: "c", type: "t", data: 0, timestamp: expect.stringMatching(/Z$/), organizationId: "test", userId: "u",
    });
    // Readers of one channel share one subscription.
    expect(before).toBe(1);
    await first.unsubscribe();
    expect(await first.closed).toBeUndefined();
    await direct.publishRealtimeMessage(context, "c", message("last"));
    await until("the other still gets it", () => two.length === 101);
    expect(one).toHaveLength(100);
    await second.unsubscribe();
    await until("nobody is left", async () => (await direct.publishRealtimeMessage(context, "c", message("?"))) === 0);
    await until("the connection ends", () => proxy.open === 0);
  });

  it("begins after a position", async () => {
    const apix = await server();
    const messaging = service(apix.url, apix);
    const ids: string[] = [];
    for (let n = 0; n < 5; n += 1) ids.push((await messaging.publishHybridEvent(context, "t", n, hybrid)).streamMessageId!);
    const seen: number[] = [];
    const live = await messaging.subscribeToRealtimeMessages<number>(context, "c", ({ data }) => seen.push(data));
    const late: number[] = [];
    const since = await messaging.subscribeToRealtimeMessages<number>(context, "c", ({ data }) => late.push(data), {
      since: ids[1],
    });
    await messaging.publishHybridEvent(context, "t", 5, hybrid);
    await until("the last event", () => late.at(-1) === 5 && seen.at(-1) === 5);
    expect(seen).toEqual([5]);
    expect(late).toEqual([2, 3, 4, 5]);
    expect(since.position).toEqual(live.position);
    expect(since.position.s!.epoch).toMatch(/./);
    const again: number[] = [];
    await messaging.publishHybridEvent(context, "t", 6, hybrid);
    await messaging.subscribeToRealtimeMessages<number>(context, "c", ({ data }) => again.push(data), {
      since: { s: { id: ids[4]! } },
    });
    await until("what came since", () => again.length === 2);
    expect(again).toEqual([5, 6]);
  });

  it("is refused with the reason", async () => {
    const apix = await server();
    const messaging = service(apix.url, apix, {
      token: () => apix.tokenFor({ permissions: ["channels:subscribe:mine"] }),
    });
    const nothing = () => {};
    const other = messaging.subscribeToRealtimeMessages(context, "other", nothing);
    await expect(other).rejects.toMatchObject({ code: "permission_denied" });
    await expect(messaging.subscribeToRealtimeMessages(context, "a/b", nothing)).rejects.toMatchObject({ code: "invalid_name" });
    await expect((await messaging.subscribeToRealtimeMessages(context, "mine", nothing)).unsubscribe()).resolves.toBeUndefined();
    const wrongTenant = service(apix.url, apix).subscribeToRealtimeMessages({ organizationId: "x" }, "c", nothing);
    await expect(wrongTenant).rejects.toMatchObject({ code: "tenant_mismatch" });
    let asked = 0;
    const nobody = service(apix.url, apix, { token: () => `nonsense-${++asked}` });
    await expect(nobody.subscribeToRealtimeMessages(context, "c", nothing)).rejects.toMatchObject({ code: "unauthorized" });
    expect(asked).toBe(2);
    const thrown = service(apix.url, apix, {
      token: () => {
        throw new RangeError("nobody is logged in");
      },
    });
    await expect(thrown.subscribeToRealtimeMessages(context, "c", nothing)).rejects.toThrow("nobody is logged in");
  });

  it("ends with a signal, also before it has begun", async () => {
    const apix = await server();
    const messaging = service(apix.url, apix);
    const controller = new AbortController();
    const subscription = await messaging.subscribeToRealtimeMessages(context, "c", () => {}, { signal: controller.signal });
    controller.abort();
    expect(await subscription.closed).toBeUndefined();
    const away = service("http://127.0.0.1:1", apix);
    const soon = AbortSignal.timeout(100);
    await expect(away.subscribeToRealtimeMessages(context, "c", () => {}, { signal: soon })).rejects.toThrow(/timeout/);
  });

  it("is not harmed by a callback that throws", async () => {
    const apix = await server();
    const messaging = service(apix.url, apix);
    const errors: unknown[] = [];
    const seen: unknown[] = [];
    const onError = (error: unknown) => errors.push(error);
    await messaging.subscribeToRealtimeMessages(context, "c", () => { throw new Error("sync"); }, { onError });
    await messaging.subscribeToRealtimeMessages(context, "c", async () => { throw new Error("async"); }, { onError });
    await messaging.subscribeToRealtimeMessages(context, "c", ({ data }) => seen.push(data));
    await messaging.publishRealtimeMessage(context, "c", message(1));
    await until("all were called", () => errors.length === 2 && seen.length === 1);
  });

  it("fails in time where there is no server", async () => {
    const messaging = new TenantMessagingService({
      url: "http://127.0.0.1:1", token: () => "t", retry: { giveUpAfterMs: 300 },
    });
    await expect(messaging.subscribeToRealtimeMessages(context, "c", () => {})).rejects.toMatchObject({
      code: "unreachable", retryable: true,
    });
    messaging.close();
  });

  it("leaves nothing behind, a thousand times", async () => {
    const apix = await server();
    const proxy = await proxyTo(apix.url);
    const messaging = service(proxy.url, apix);
    for (let round = 0; round < 10; round += 1) {
      const subscriptions = await Promise.all(
        [...Array(100).keys()].map((n) => messaging.subscribeToRealtimeMessages(context, `c${n % 10}`, () => {})),
      );
      expect(proxy.open).toBe(1);
      await Promise.all(subscriptions.map((subscription) => subscription.unsubscribe()));
    }
    const direct = service(apix.url, apix);
    await until("nobody is left", async () => (await direct.publishRealtimeMessage(context, "c1", message("?"))) === 0);
    await until("the connection ends", () => proxy.open === 0);
  });
});

describe("a lost connection", () => {
  it("costs no hybrid event, and says that messages may be missing", async () => {
    const apix = await server();
    const proxy = await proxyTo(apix.url);
    const states: LiveState[] = [];
    const messaging = service(proxy.url, apix, { onLiveState: (_context, state) => states.push(state) });
    const direct = service(apix.url, apix);
    const seen: number[] = [];
    const missed: Missed[] = [];
    await messaging.subscribeToRealtimeMessages<number>(context, "c", ({ data }) => seen.push(data), {
      onMissed: (what) => missed.push(what),
    });
    for (let n = 0; n < 500; n += 1) {
      await direct.publishHybridEvent(context, "t", n, hybrid);
      if (n % 100 === 50) proxy.cut();
    }
    await until("the last event", () => seen.at(-1) === 499);
    expect(seen).toEqual([...Array(500).keys()]);
    expect(missed.length).toBeGreaterThan(0);
    expect(missed[0]).toEqual({ channel: "c", count: null, recoverable: false, reason: "reconnected" });
    expect(states.slice(0, 5)).toEqual(["connecting", "connected", "waiting", "connecting", "connected"]);
  });

  it("costs nothing of a stream that began to feed the channel meanwhile", async () => {
    const apix = await server();
    const proxy = await proxyTo(apix.url);
    const messaging = service(proxy.url, apix);
    const direct = service(apix.url, apix);
    const seen: string[] = [];
    await messaging.subscribeToRealtimeMessages<string>(context, "c", ({ data }) => seen.push(data));
    await direct.publishHybridEvent(context, "t", "a1", { streamName: "a", realtimeChannel: "c" });
    await until("the first event", () => seen.length === 1);
    proxy.refusing = true;
    proxy.cut();
    await direct.publishHybridEvent(context, "t", "b1", { streamName: "b", realtimeChannel: "c" });
    await direct.publishHybridEvent(context, "t", "a2", { streamName: "a", realtimeChannel: "c" });
    await direct.publishHybridEvent(context, "t", "b2", { streamName: "b", realtimeChannel: "c" });
    proxy.refusing = false;
    await until("all events", () => seen.length === 4);
    await direct.publishHybridEvent(context, "t", "b3", { streamName: "b", realtimeChannel: "c" });
    await until("the live one", () => seen.at(-1) === "b3");
    expect(seen).toHaveLength(5);
    expect(seen.filter((data) => data.startsWith("a"))).toEqual(["a1", "a2"]);
    expect(seen.filter((data) => data.startsWith("b"))).toEqual(["b1", "b2", "b3"]);
  });

  it("is nothing to many channels on it", async () => {
    const apix = await server();
    const proxy = await proxyTo(apix.url);
    const messaging = service(proxy.url, apix);
    const direct = service(apix.url, apix);
    const seen = new Set<string>();
    const names = [...Array(250).keys()].map((n) => `c${n}`);
    await Promise.all(names.map((name) => messaging.subscribeToRealtimeMessages(context, name, ({ channel }) => seen.add(channel))));
    expect(proxy.open).toBe(1);
    proxy.cut();
    // What is published before a channel is subscribed again is stored nowhere: it is sent until it arrives.
    await until("each gets its own", async () => {
      const missing = names.filter((name) => !seen.has(name));
      await Promise.all(missing.map((name) => direct.publishRealtimeMessage(context, name, message(1))));
      return seen.size === 250;
    });
    expect(proxy.open).toBe(1);
  });
});

describe("a restarted server", () => {
  it.each([{ kill: false }, { kill: true }])("goes on where it was (%o)", async ({ kill }) => {
    const apix = await server({ durable: true });
    const messaging = service(apix.url, apix);
    const seen: number[] = [];
    await messaging.subscribeToRealtimeMessages<number>(context, "c", ({ data }) => seen.push(data));
    for (let n = 0; n < 60; n += 1) {
      await messaging.publishHybridEvent(context, "t", n, hybrid);
      if (n % 20 === 10) await apix.restart({ kill });
    }
    await until("the last event", () => seen.at(-1) === 59);
    expect(seen).toEqual([...Array(60).keys()]);
  });
});

describe("an expired token", () => {
  it("is replaced, and the subscription goes on", async () => {
    const apix = await server();
    let asked = 0;
    const messaging = service(apix.url, apix, { token: () => apix.tokenFor({ ttlSeconds: ++asked === 1 ? 7 : 3_600 }) });
    const direct = service(apix.url, apix);
    const seen: number[] = [];
    const missed: Missed[] = [];
    await messaging.subscribeToRealtimeMessages<number>(context, "c", ({ data }) => seen.push(data), {
      onMissed: (what) => missed.push(what),
    });
    let sent = 0;
    const start = Date.now();
    // Longer than the first token; it is over when a second one was used for a while.
    while (Date.now() - start < 9_000) {
      await direct.publishHybridEvent(context, "t", sent++, hybrid);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await until("the last event", () => seen.length === sent);
    expect(seen).toEqual([...Array(sent).keys()]);
    expect(asked).toBeGreaterThanOrEqual(2);
  });
});

describe("a slow consumer", () => {
  it("that reads nothing is cut off, comes back and gets every stored event", async () => {
    const apix = await server({ config: '[live]\nslow_timeout = "1s"\n' });
    const proxy = await proxyTo(apix.url);
    const messaging = service(proxy.url, apix);
    const direct = service(apix.url, apix);
    const seen: number[] = [];
    const missed: Missed[] = [];
    await messaging.subscribeToRealtimeMessages<{ n: number }>(context, "c", ({ data }) => data.n >= 0 && seen.push(data.n), {
      onMissed: (what) => missed.push(what),
    });
    proxy.hold();
    const filler = "x".repeat(100_000);
    const total = 300;
    for (let n = 0; n < total; n += 1) await direct.publishHybridEvent(context, "t", { n, filler }, hybrid);
    await until("the server has cut it off", async () => (await direct.publishRealtimeMessage(context, "c", message({ n: -1 }))) === 0);
    proxy.release();
    await until("the last event", () => seen.at(-1) === total - 1);
    expect(seen).toEqual([...Array(total).keys()]);
    expect(missed.length).toBeGreaterThan(0);
  });

  it("that falls behind in its loop is told how much it missed", async () => {
    const apix = await server();
    const messaging = service(apix.url, apix);
    const missed: Missed[] = [];
    const messages = messaging.realtimeMessages<number>(context, "c", { maxBuffered: 10, onMissed: (what) => missed.push(what) });
    await messages.open();
    for (let n = 0; n < 25; n += 1) await messaging.publishRealtimeMessage(context, "c", message(n));
    await messaging.publishHybridEvent(context, "t", 25, hybrid);
    await new Promise((resolve) => setTimeout(resolve, 200));
    const seen: number[] = [];
    for await (const { data } of messages) {
      seen.push(data);
      if (data === 25) break;
    }
    expect(seen).toEqual([16, 17, 18, 19, 20, 21, 22, 23, 24, 25]);
    expect(missed).toEqual([{ channel: "c", count: 16, recoverable: true, reason: "buffer" }]);
    expect(messages.position.s?.id).toMatch(/-/);
  });
});

describe("a loop over messages", () => {
  it("ends when it is left, and when the service is closed", async () => {
    const apix = await server();
    const messaging = service(apix.url, apix);
    const publishing = setInterval(() => void messaging.publishRealtimeMessage(context, "c", message(1)).catch(() => {}), 10);
    endings.push(() => clearInterval(publishing));
    let count = 0;
    for await (const { data } of messaging.realtimeMessages<number>(context, "c")) {
      expect(data).toBe(1);
      if (++count === 3) break;
    }
    const quiet = messaging.realtimeMessages(context, "quiet");
    await quiet.open();
    setTimeout(() => messaging.close(), 20);
    await expect(quiet.next()).rejects.toMatchObject({ code: "closed" });
    const refused = service(apix.url, apix).realtimeMessages(context, "a/b");
    await expect(refused.next()).rejects.toBeInstanceOf(ApixError);
    expect(await refused.return()).toEqual({ done: true, value: undefined });
  });
});

describe("publishing over the live connection", () => {
  it("keeps the order, waits for a connection, and bounds what waits", async () => {
    const apix = await server();
    const proxy = await proxyTo(apix.url);
    const messaging = service(proxy.url, apix, { maxQueuedPublishes: 5 });
    const direct = service(apix.url, apix);
    const seen: number[] = [];
    await direct.subscribeToRealtimeMessages<number>(context, "c", ({ data }) => seen.push(data));
    expect(await Promise.all([0, 1, 2].map((n) => messaging.publishLive(context, "c", message(n))))).toEqual([1, 1, 1]);
    proxy.refusing = true;
    proxy.cut();
    await until("it is noticed", () => proxy.open === 0);
    await new Promise((resolve) => setTimeout(resolve, 50));
    const waiting = [3, 4, 5, 6, 7].map((n) => messaging.publishLive(context, "c", message(n)));
    await expect(messaging.publishLive(context, "c", message(8))).rejects.toMatchObject({ code: "queue_full" });
    proxy.refusing = false;
    await Promise.all(waiting);
    await until("all have come", () => seen.length === 8);
    expect(seen).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    const denied = service(apix.url, apix, { token: () => apix.tokenFor({ permissions: [] }) });
    await expect(denied.publishLive(context, "c", message(1))).rejects.toMatchObject({ code: "permission_denied" });
  });
});

describe("a service key", () => {
  it("serves every tenant, each by itself", async () => {
    const apix = await server();
    const messaging = new TenantMessagingService({ url: apix.url, serviceKey: apix.serviceKey });
    endings.push(() => messaging.close());
    const seen: string[] = [];
    const tenants = [...Array(20).keys()].map((n) => ({ organizationId: `t${n}`, userId: `u${n}` }));
    await Promise.all(
      tenants.map((tenant) =>
        messaging.subscribeToRealtimeMessages(tenant, "c", ({ organizationId, userId, data }) => seen.push(`${organizationId} ${userId} ${data}`)),
      ),
    );
    await Promise.all(tenants.map((tenant, n) => messaging.publishRealtimeMessage(tenant, "c", message(n))));
    await until("each got its own", () => seen.length === 20);
    expect(seen.sort()).toEqual(tenants.map((tenant, n) => `${tenant.organizationId} ${tenant.userId} ${n}`).sort());
  });
});
