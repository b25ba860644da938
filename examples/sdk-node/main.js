// An ordinary application, instrumented with the OpenTelemetry SDK for Node.js. It
// knows nothing of signing: it sends traces, metrics and logs to the collector that
// the SDK's own variables name, and prints how many spans and log records it ended.
//
//   npm ci
//   OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 node main.js 100

import { metrics, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api';
import { logs, SeverityNumber } from '@opentelemetry/api-logs';
import { NodeSDK } from '@opentelemetry/sdk-node';

process.env.OTEL_SERVICE_NAME ??= 'orders-node';
process.env.OTEL_METRICS_EXPORTER ??= 'otlp';
process.env.OTEL_LOGS_EXPORTER ??= 'otlp';
process.env.OTEL_TRACES_EXPORTER ??= 'otlp';

const orders = Number(process.argv[2] ?? 100);
if (!Number.isInteger(orders) || orders < 1) {
  console.error('usage: node main.js [ORDERS]');
  process.exit(2);
}

const sdk = new NodeSDK();
sdk.start();

const tracer = trace.getTracer('orders');
const meter = metrics.getMeter('orders');
const logger = logs.getLogger('orders');
const placed = meter.createCounter('orders.placed', { unit: '{order}', description: 'Orders that were placed' });
const duration = meter.createHistogram('orders.duration', { unit: 'ms', description: 'Time that an order took' });
meter.createObservableGauge('process.heap', { unit: 'By' }).addCallback((r) => r.observe(process.memoryUsage().heapUsed));

const ended = { spans: 0, logs: 0 };

// order is one request with what it does; n tells orders apart.
function order(n) {
  tracer.startActiveSpan('POST /orders', { kind: SpanKind.SERVER }, (root) => {
    root.setAttributes({ 'http.request.method': 'POST', 'http.response.status_code': 201 });
    const query = tracer.startSpan('INSERT orders', { kind: SpanKind.CLIENT });
    query.setAttributes({ 'db.system.name': 'postgresql', 'order.amount': (n % 9000) / 100, 'order.tags': ['new', 'paid'] });
    query.end();
    if (n % 50 === 0) {
      root.setStatus({ code: SpanStatusCode.ERROR, message: 'card declined' });
    }
    logger.emit({
      severityNumber: SeverityNumber.INFO, severityText: 'INFO', body: { message: 'order was paid', order: n },
      attributes: { 'order.id': n },
    });
    placed.add(1, { method: n % 2 ? 'card' : 'invoice' });
    duration.record(n % 250);
    root.end();
    ended.spans += 2;
    ended.logs += 1;
  });
}

for (let n = 0; n < orders; n++) {
  order(n);
  if (n % 100 === 99) {
    await new Promise((next) => setTimeout(next, 50)); // the SDK's queues are bounded
  }
}
await sdk.shutdown(); // hands over what is left
console.log(JSON.stringify(ended));
