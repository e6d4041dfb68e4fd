import {
  DEFAULT_GROUP,
  type Handling,
  type ProcessedEvent,
  type TenantContext,
  TenantMessagingService,
  Worker,
} from "@apix/client";
import {
  type BeforeApplicationShutdown,
  Inject,
  Injectable,
  Logger,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
} from "@nestjs/common";
import { DiscoveryService, MetadataScanner, Reflector } from "@nestjs/core";
import { ON_EVENT, type OnEventMetadata } from "./on-event.js";
import { APIX_MESSAGING, APIX_OPTIONS, type ApixModuleOptions } from "./options.js";

type Handler = (event: ProcessedEvent, context: TenantContext, handling: Handling) => unknown;

/** The handlers of one stream and group. */
interface HandlerGroup {
  options: OnEventMetadata;
  handlers: { takes: (eventType: string) => boolean; handle: Handler }[];
}

/** Runs the `@OnEvent` handlers: a worker for each tenant, stream and group. */
@Injectable()
export class ApixWorkers implements OnApplicationBootstrap, BeforeApplicationShutdown, OnApplicationShutdown {
  private readonly logger = new Logger("ApixWorkers");
  private readonly groups = new Map<string, HandlerGroup>();
  private readonly running = new Map<string, Worker[]>();

  constructor(
    @Inject(APIX_MESSAGING) private readonly messaging: TenantMessagingService,
    @Inject(APIX_OPTIONS) private readonly options: ApixModuleOptions,
    @Inject(DiscoveryService) private readonly discovery: DiscoveryService,
    @Inject(MetadataScanner) private readonly scanner: MetadataScanner,
    @Inject(Reflector) private readonly reflector: Reflector,
  ) {}

  /** Finds the handlers, and begins with the tenants of the module. */
  async onApplicationBootstrap(): Promise<void> {
    for (const { instance } of [...this.discovery.getProviders(), ...this.discovery.getControllers()]) {
      if (instance && typeof instance === "object") this.register(instance as object);
    }
    const { tenants = [] } = this.options;
    for (const tenant of typeof tenants === "function" ? await tenants() : tenants) this.addTenant(tenant);
  }

  /** Handles the events of this tenant too. */
  addTenant(context: TenantContext): void {
    if (this.running.has(context.organizationId)) return;
    const workers = [...this.groups.values()].map((group) => this.start(context, group));
    this.running.set(context.organizationId, workers);
  }

  /** Handles no more events of this tenant, and waits for what was begun. */
  async removeTenant(organizationId: string): Promise<void> {
    const workers = this.running.get(organizationId) ?? [];
    this.running.delete(organizationId);
    const timeoutMs = this.options.shutdownTimeoutMs ?? 25_000;
    await Promise.all(workers.map((worker) => worker.stop({ timeoutMs }).catch(() => {})));
  }

  async beforeApplicationShutdown(): Promise<void> {
    await Promise.all([...this.running.keys()].map((organizationId) => this.removeTenant(organizationId)));
  }

  onApplicationShutdown(): void {
    this.messaging.close();
  }

  private register(instance: object): void {
    const prototype = Object.getPrototypeOf(instance) as object | null;
    if (!prototype) return;
    for (const name of this.scanner.getAllMethodNames(prototype)) {
      const method = (instance as Record<string, unknown>)[name];
      if (typeof method !== "function") continue;
      const options = this.reflector.get<OnEventMetadata | undefined>(ON_EVENT, method);
      if (!options) continue;
      const key = JSON.stringify([options.streamName, options.group ?? DEFAULT_GROUP]);
      const group = this.groups.get(key) ?? { options, handlers: [] };
      group.handlers.push({ takes: taker(options), handle: method.bind(instance) as Handler });
      this.groups.set(key, group);
    }
  }

  private start(context: TenantContext, { options, handlers }: HandlerGroup): Worker {
    const { streamName, group, concurrency, maxHoldMs, retryDelayMs } = options;
    const what = `${streamName} of ${context.organizationId}`;
    const worker = new Worker(
      this.messaging,
      {
        context,
        streamName,
        group,
        concurrency,
        maxHoldMs,
        retryDelayMs,
        onError: (error, event) => {
          const which = event ? `event ${event.messageId}, delivery ${event.deliveryCount}: ` : "";
          this.logger.warn(`${what}: ${which}${error instanceof Error ? error.message : String(error)}`);
        },
      },
      async (event, handling) => {
        for (const { takes, handle } of handlers) {
          if (takes(event.eventType)) await handle(event, context, handling);
        }
      },
    );
    worker.run().catch((error: Error) => this.logger.error(`${what} is not handled any more: ${error.message}`));
    return worker;
  }
}

function taker({ eventType }: OnEventMetadata): (eventType: string) => boolean {
  if (eventType === undefined) return () => true;
  const wanted = new Set(typeof eventType === "string" ? [eventType] : eventType);
  return (given) => wanted.has(given);
}
