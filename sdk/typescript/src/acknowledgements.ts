import type { Credentials } from "./credentials.js";
import { ApixError } from "./error.js";
import { type Gathered, Gatherers, type Outcome, sendApart } from "./gather.js";
import type { Http } from "./http.js";
import type { GroupAddress, Leases } from "./leases.js";
import type { Schemas } from "./schemas.js";

const LIMITS = { items: 1_000, characters: 1 << 20 };

interface Acknowledgement extends Gathered {
  messageId: string;
}

/** Acknowledges events, those of one tick and group together. */
export class Acknowledgements {
  private readonly gatherers = new Gatherers<Acknowledgement, void>(LIMITS);

  constructor(
    private readonly http: Http,
    private readonly credentials: Credentials,
    private readonly leases: Leases,
  ) {}

  /** As `consumer`, if given: then only a delivery that it holds is acknowledged. */
  async acknowledge(address: GroupAddress, messageId: string, consumer: string | undefined): Promise<void> {
    const { context, streamName, group } = address;
    const key = JSON.stringify([this.credentials.callKey(context), streamName, group, consumer]);
    try {
      await this.gatherers.add(key, { messageId, size: messageId.length + 3 }, (some) =>
        this.send(address, some, consumer),
      );
    } finally {
      this.leases.settled(address, messageId);
    }
  }

  private async send(
    address: GroupAddress,
    some: Acknowledgement[],
    consumer: string | undefined,
  ): Promise<Outcome<void>[]> {
    const lost = new Map<string, ApixError>();
    const request = (part: Acknowledgement[]) => this.request(address, part, consumer, lost);
    const outcomes = await sendApart(some, request, isOfOneId);
    return outcomes.map((outcome, index) => {
      const error = lost.get(some[index]?.messageId ?? "");
      return error ? { ok: false, error } : outcome;
    });
  }

  private async request(
    { context, streamName, group }: GroupAddress,
    some: Acknowledgement[],
    consumer: string | undefined,
    lost: Map<string, ApixError>,
  ): Promise<void[]> {
    const body: Schemas["Ack"] = { messageIds: some.map(({ messageId }) => messageId) };
    if (consumer !== undefined) body.consumer = consumer;
    const answer = await this.http.json<Schemas["Acked"]>(context, {
      method: "POST",
      path: ["streams", streamName, "groups", group, "ack"],
      body: JSON.stringify(body),
      repeatable: true,
    });
    for (const id of answer.leaseLost ?? []) {
      const message = `the delivery of ${id} is no longer held by ${consumer}`;
      lost.set(id, new ApixError("lease_lost", message, { status: 409 }));
    }
    return some.map(() => undefined);
  }
}

/** One malformed id makes a request invalid, and one lost lease fails it where nothing else counts. */
function isOfOneId(error: unknown): boolean {
  return error instanceof ApixError && (error.code === "invalid_request" || error.code === "lease_lost");
}
