/** What is to be sent together with others. */
export interface Gathered {
  /** Its share of a request, in characters. */
  size: number;
}

export interface GatherLimits {
  /** The most items in one request. */
  items: number;
  /** The most characters in one request. */
  characters: number;
}

/** What became of one item. */
export type Outcome<Answer> = { ok: true; answer: Answer } | { ok: false; error: unknown };

interface Waiting<Item, Answer> {
  item: Item;
  resolve: (answer: Answer) => void;
  reject: (error: unknown) => void;
}

/**
 * Gathers what is asked for in one tick into one request, and, while a request is under way, what
 * is asked for meanwhile into the next one. So order is kept, a single call waits for nothing, and
 * the more is going on, the larger the requests are.
 */
export class Gather<Item extends Gathered, Answer> {
  private readonly waiting: Waiting<Item, Answer>[] = [];
  private running = false;

  constructor(
    private readonly limits: GatherLimits,
    private readonly send: (items: Item[]) => Promise<Outcome<Answer>[]>,
    /** Nothing waits and nothing is under way. */
    private readonly idle: () => void,
  ) {}

  add(item: Item): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.waiting.push({ item, resolve, reject });
      if (this.running) return;
      this.running = true;
      endOfTick(() => void this.run());
    });
  }

  private async run(): Promise<void> {
    while (this.waiting.length > 0) {
      const batch = this.take();
      const outcomes = await this.send(batch.map(({ item }) => item));
      batch.forEach(({ resolve, reject }, index) => {
        const outcome = outcomes[index];
        if (outcome?.ok) resolve(outcome.answer);
        else reject(outcome?.error ?? new Error("the answer is short of an item"));
      });
      // What the callers ask for next belongs to the same request.
      await new Promise<void>(endOfTick);
    }
    this.running = false;
    this.idle();
  }

  private take(): Waiting<Item, Answer>[] {
    let count = 0;
    let characters = 0;
    for (const { item } of this.waiting) {
      characters += item.size;
      if (count > 0 && (count >= this.limits.items || characters > this.limits.characters)) break;
      count += 1;
    }
    return this.waiting.splice(0, count);
  }
}

/** Gatherers by what their items share; one that is idle is forgotten. */
export class Gatherers<Item extends Gathered, Answer> {
  private readonly byKey = new Map<string, Gather<Item, Answer>>();

  constructor(private readonly limits: GatherLimits) {}

  add(key: string, item: Item, send: (items: Item[]) => Promise<Outcome<Answer>[]>): Promise<Answer> {
    let gather = this.byKey.get(key);
    if (!gather) {
      gather = new Gather(this.limits, send, () => this.byKey.delete(key));
      this.byKey.set(key, gather);
    }
    return gather.add(item);
  }
}

/**
 * Sends `items` as one request. If it is refused because of what is in it, each half is sent by
 * itself, until what is wrong stands alone: it fails, and nothing else does.
 */
export async function sendApart<Item, Answer>(
  items: Item[],
  send: (items: Item[]) => Promise<Answer[]>,
  isOfOneItem: (error: unknown) => boolean,
): Promise<Outcome<Answer>[]> {
  try {
    return (await send(items)).map((answer) => ({ ok: true, answer }));
  } catch (error) {
    if (items.length === 1 || !isOfOneItem(error)) return items.map(() => ({ ok: false, error }));
    const half = items.length >> 1;
    const first = await sendApart(items.slice(0, half), send, isOfOneItem);
    return [...first, ...(await sendApart(items.slice(half), send, isOfOneItem))];
  }
}

/** Runs `next` when the current tick and its promises are done. */
function endOfTick(next: () => void): void {
  const { setImmediate } = globalThis as { setImmediate?: (next: () => void) => unknown };
  if (setImmediate) setImmediate(next);
  else setTimeout(next, 0);
}
