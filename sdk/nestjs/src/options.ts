import type { ServiceOptions, TenantContext } from "@apix/client";
import type { FactoryProvider, ModuleMetadata, Type } from "@nestjs/common";

/** Where `TenantMessagingService` is injected by a symbol rather than by its class. */
export const APIX_MESSAGING = Symbol.for("@apix/nestjs:messaging");
/** The options of the module. */
export const APIX_OPTIONS = Symbol.for("@apix/nestjs:options");

/** For whom `@OnEvent` handlers run: contexts, or a function that gives them when the application starts. */
export type Tenants = readonly TenantContext[] | (() => readonly TenantContext[] | Promise<readonly TenantContext[]>);

export type ApixModuleOptions = ServiceOptions & {
  /** For whom `@OnEvent` handlers run (default nobody; `ApixWorkers` adds and removes tenants later). */
  tenants?: Tenants | undefined;
  /** How long a shutdown waits for handlers (default 25,000 ms). */
  shutdownTimeoutMs?: number | undefined;
};

/** Makes options by injection. */
export interface ApixOptionsFactory {
  createApixOptions(): ApixModuleOptions | Promise<ApixModuleOptions>;
}

export interface ApixModuleAsyncOptions extends Pick<ModuleMetadata, "imports"> {
  useFactory?: (...args: any[]) => ApixModuleOptions | Promise<ApixModuleOptions>;
  inject?: FactoryProvider["inject"];
  useClass?: Type<ApixOptionsFactory>;
  useExisting?: Type<ApixOptionsFactory>;
  /** Whether other modules need not import this one (default yes). */
  isGlobal?: boolean;
}
