import { TenantMessagingService } from "@apix/client";
import { type DynamicModule, Inject, Module, type Provider } from "@nestjs/common";
import { DiscoveryModule } from "@nestjs/core";
import {
  APIX_MESSAGING,
  APIX_OPTIONS,
  type ApixModuleAsyncOptions,
  type ApixModuleOptions,
  type ApixOptionsFactory,
} from "./options.js";
import { SocketMessagingService } from "./socket-messaging.js";
import { ApixWorkers } from "./workers.js";

/** Injects the service by its symbol, for who does not want to depend on the class. */
export const InjectMessaging = (): ParameterDecorator & PropertyDecorator => Inject(APIX_MESSAGING);

/** Provides `TenantMessagingService` and runs `@OnEvent` handlers. */
@Module({})
export class ApixModule {
  static forRoot(options: ApixModuleOptions & { isGlobal?: boolean }): DynamicModule {
    return moduleOf([{ provide: APIX_OPTIONS, useValue: options }], options.isGlobal, []);
  }

  static forRootAsync(options: ApixModuleAsyncOptions): DynamicModule {
    return moduleOf(optionProviders(options), options.isGlobal, options.imports);
  }
}

function moduleOf(
  options: Provider[],
  isGlobal: boolean | undefined,
  imports: DynamicModule["imports"],
): DynamicModule {
  return {
    module: ApixModule,
    global: isGlobal ?? true,
    imports: [DiscoveryModule, ...(imports ?? [])],
    providers: [
      ...options,
      {
        provide: TenantMessagingService,
        inject: [APIX_OPTIONS],
        useFactory: (given: ApixModuleOptions) => new SocketMessagingService(given),
      },
      { provide: APIX_MESSAGING, useExisting: TenantMessagingService },
      ApixWorkers,
    ],
    exports: [TenantMessagingService, APIX_MESSAGING, ApixWorkers],
  };
}

function optionProviders({ useFactory, inject, useClass, useExisting }: ApixModuleAsyncOptions): Provider[] {
  if (useFactory) return [{ provide: APIX_OPTIONS, useFactory, inject: inject ?? [] }];
  const factory = useExisting ?? useClass;
  if (!factory) throw new TypeError("forRootAsync takes useFactory, useClass or useExisting");
  const options: Provider = {
    provide: APIX_OPTIONS,
    useFactory: (made: ApixOptionsFactory) => made.createApixOptions(),
    inject: [factory],
  };
  return useClass ? [useClass, options] : [options];
}
