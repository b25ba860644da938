package ondemandreceiver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"time"

	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/receiver/ondemandreceiver/internal/metadata"
)

const (
	hostName = string(semconv.HostNameKey)
	// payloadID is the scope attribute by which a request's metrics are found
	// again in an archive.
	payloadID = "ondemand.payload_id"
	// ofApplication ends the name of the scope of what an application said, so that
	// under names of the conventions it does not pass for what was measured here.
	ofApplication = "/application"
)

// newPayloadID is 16 random bytes in hex.
func newPayloadID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// build makes the metrics that were asked for.
func (o *ondemand) build(ctx context.Context, req *request, id string, now time.Time) (pmetric.Metrics, error) {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	for k, v := range o.host {
		rm.Resource().Attributes().PutStr(k, v)
	}
	sm := rm.ScopeMetrics().AppendEmpty()
	sm.Scope().SetName(metadata.ScopeName)
	sm.Scope().SetVersion(o.set.BuildInfo.Version)
	sm.Scope().Attributes().PutStr(payloadID, id)
	b := &builder{metrics: sm.Metrics(), now: pcommon.NewTimestampFromTime(now)}
	if req.kind == kindApplication {
		// Its names are its own: no schema says what they mean.
		sm.Scope().SetName(metadata.ScopeName + ofApplication)
		req.data.gauges(b)
		return md, nil
	}
	rm.SetSchemaUrl(semconv.SchemaURL)
	if err := system(ctx, b); err != nil {
		return md, &refusal{reason: reasonSystem, detail: "nothing could be read of this system; the log says why", err: err}
	}
	if b.failed != nil {
		o.set.Logger.Warn("Part of the system's metrics could not be read.", zap.Error(b.failed))
	}
	return md, nil
}

// send gives the metrics to the pipeline and says what became of them.
func (o *ondemand) send(ctx context.Context, md pmetric.Metrics) error {
	// What the pipeline has begun goes on when the caller is gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.cfg.Timeout)
	defer cancel()
	ctx = o.report.StartMetricsOp(ctx)
	n := md.DataPointCount()
	err := o.next.ConsumeMetrics(ctx, md)
	o.report.EndMetricsOp(ctx, "json", n, err)
	switch {
	case err == nil:
		return nil
	case consumererror.IsPermanent(err):
		return &refusal{reason: reasonRefused, detail: "the pipeline refused the metrics: " + short(err), err: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &refusal{reason: reasonTimeout, detail: "the pipeline did not accept the metrics in time; whether they arrived is not known", err: err}
	default:
		return &refusal{reason: reasonUnavailable, detail: "the pipeline cannot take the metrics now: " + short(err), err: err}
	}
}

// short bounds what an error of the pipeline may say to a caller.
func short(err error) string {
	const most = 300
	s := err.Error()
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

func (o *ondemand) accepted(ctx context.Context, k kind, points int) {
	o.counts.accepted.Add(1)
	o.counts.points.Add(uint64(points))
	o.telemetry.OndemandRequests.Add(ctx, 1, metric.WithAttributeSet(attribute.NewSet(kindAttribute(k), attribute.String("outcome", "accepted"))))
	o.telemetry.OndemandPoints.Add(ctx, int64(points), metric.WithAttributeSet(attribute.NewSet(kindAttribute(k))))
}

func (o *ondemand) refused(w http.ResponseWriter, k kind, err error) {
	r := refusalOf(err)
	outcome := "refused"
	if statusOf(r.reason) == http.StatusServiceUnavailable {
		outcome = "unavailable"
		o.counts.unavailable.Add(1)
	} else {
		o.counts.refused.Add(1)
	}
	o.telemetry.OndemandRequests.Add(context.Background(), 1, metric.WithAttributeSet(attribute.NewSet(kindAttribute(k), attribute.String("outcome", outcome))))
	o.set.Logger.Debug("A request for metrics was not served.", zap.String("reason", string(r.reason)), zap.String("detail", r.detail), zap.Error(r.err))
	fail(w, r, 0)
}

func kindAttribute(k kind) attribute.KeyValue { return attribute.String("kind", string(k)) }
