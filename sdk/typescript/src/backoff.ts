/** How failures that may pass are retried: exponential back-off with full jitter. */
export interface RetryOptions {
  /** Upper bound of the first delay (default 100 ms); it doubles from one attempt to the next. */
  firstDelayMs?: number;
  /** The longest delay (default 5 s). */
  longestDelayMs?: number;
  /** A call fails when it has not succeeded so long after its first failure (default 2 minutes). */
  giveUpAfterMs?: number;
}

export class Backoff {
  constructor(
    readonly firstDelayMs: number,
    readonly longestDelayMs: number,
    private readonly random: () => number = Math.random,
  ) {}

  /** A delay anywhere between 0 and the bound of `attempt` (from 0): clients do not return together. */
  delay(attempt: number): number {
    const bound = Math.min(this.longestDelayMs, this.firstDelayMs * 2 ** Math.min(attempt, 30));
    return this.random() * bound;
  }
}

/** Resolves after `ms`; rejects with the signal's reason when it is aborted before. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const onAbort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    }, ms);
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

/** Lets the process end although the timer runs, where there is such a thing. */
export function background(timer: ReturnType<typeof setTimeout>): ReturnType<typeof setTimeout> {
  if (typeof timer === "object") (timer as { unref?: () => void }).unref?.();
  return timer;
}
