package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/test/harness"
)

// attack is one thing that a hostile gateway may try. Every request that
// passes through it carries two blocks of one agent: a victim, which it changes,
// and a neighbour, which it leaves alone.
type attack struct {
	name string
	want reason.Reason
	// arrives says how often the victim must be in the archive afterwards.
	arrives int
	do      func(request digest.Batch, victim int) []digest.Batch
}

var attacks = []attack{
	{
		name: "value changed 41 → 42", want: reason.DigestMismatch,
		do: func(request digest.Batch, victim int) []digest.Batch {
			request.At(victim).Metrics().ScopeMetrics().At(0).Metrics().At(0).Gauge().DataPoints().At(0).SetDoubleValue(42)
			return []digest.Batch{request}
		},
	},
	{
		name: "host.name changed", want: reason.DigestMismatch,
		do: func(request digest.Batch, victim int) []digest.Batch {
			request.At(victim).Attributes().PutStr("host.name", "edge-z")
			return []digest.Batch{request}
		},
	},
	{
		name: "attribute added", want: reason.DigestMismatch,
		do: func(request digest.Batch, victim int) []digest.Batch {
			harness.ItemAttributes(request.At(victim))[0].PutStr("approved", "yes")
			return []digest.Batch{request}
		},
	},
	{
		name: "block replayed", want: reason.Duplicate, arrives: 1,
		do: func(request digest.Batch, victim int) []digest.Batch {
			again := harness.One(request, victim)
			return []digest.Batch{request, again}
		},
	},
	{
		name: "receipt of another block", want: reason.DigestMismatch,
		do: func(request digest.Batch, victim int) []digest.Batch {
			harness.Transplant(request.At(1-victim), request.At(victim))
			return []digest.Batch{request}
		},
	},
	{
		name: "receipt removed", want: reason.ReceiptMissing,
		do: func(request digest.Batch, victim int) []digest.Batch {
			request.At(victim).StripProof()
			return []digest.Batch{request}
		},
	},
	{
		name: "one bit of the signature flipped", want: reason.SignatureInvalid,
		do: func(request digest.Batch, victim int) []digest.Batch {
			v, _ := request.At(victim).Attributes().Get(block.AttrReceipt)
			raw := append([]byte(nil), v.Bytes().AsRaw()...)
			raw[len(raw)-1] ^= 1
			v.Bytes().FromRaw(raw)
			return []digest.Batch{request}
		},
	},
	{
		name: "verdict “verified” forged", want: reason.ReservedAttribute,
		do: func(request digest.Batch, victim int) []digest.Batch {
			request.At(victim).StripProof()
			request.At(victim).Attributes().PutStr(block.AttrVerdict, reason.Verified)
			return []digest.Batch{request}
		},
	},
}

// blockDropped is not in the list: it is noticed as a gap, not as a refusal.
const blockDropped = "block dropped"

// runAttacks makes them one by one and reads from the collector's own counters
// what it said.
func (d *demo) runAttacks(ctx context.Context) ([]attackRow, error) {
	conn, err := grpc.NewClient(d.attackReceiver, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	var rows []attackRow
	for i, a := range attacks {
		victim, neighbour := fmt.Sprintf("victim-%d", i), fmt.Sprintf("neighbour-%d", i)
		d.hostile.Set(func(request digest.Batch) []digest.Batch {
			for n := range request.Len() {
				if harness.ServiceOf(request.At(n)) == victim {
					return a.do(request, n)
				}
			}
			return []digest.Batch{request}
		})
		row, err := d.attackOnce(ctx, conn, a.name, string(a.want), victim, neighbour)
		if err != nil {
			return nil, fmt.Errorf("attack %q: %w", a.name, err)
		}
		d.expect = append(d.expect, expectation{len(rows), victim, a.arrives}, expectation{len(rows), neighbour, 1})
		rows = append(rows, row)
	}
	d.hostile.Set(func(request digest.Batch) []digest.Batch {
		request.Filter(func(i int) bool { return harness.ServiceOf(request.At(i)) != "victim-dropped" })
		return []digest.Batch{request}
	})
	row, err := d.dropOnce(ctx, conn, "victim-dropped", "neighbour-dropped")
	if err != nil {
		return nil, fmt.Errorf("attack %q: %w", blockDropped, err)
	}
	d.expect = append(d.expect, expectation{len(rows), "victim-dropped", 0}, expectation{len(rows), "neighbour-dropped", 1})
	rows = append(rows, row)
	d.hostile.Set(harness.Pass)

	row, err = d.unknownTPM(ctx)
	if err != nil {
		return nil, fmt.Errorf("attack by an unknown TPM: %w", err)
	}
	return append(rows, row), nil
}

// attackOnce sends victim and neighbour in one request through the hostile
// gateway and waits until the collector has said something new.
func (d *demo) attackOnce(ctx context.Context, conn *grpc.ClientConn, name, want, victim, neighbour string) (attackRow, error) {
	before, err := d.verdicts(ctx)
	if err != nil {
		return attackRow{}, err
	}
	if err := harness.ExportGRPC(ctx, conn, harness.Join(gauge(victim, 41), gauge(neighbour, 7))); err != nil {
		return attackRow{}, err
	}
	got, err := d.newVerdict(ctx, before)
	if err != nil {
		return attackRow{}, err
	}
	return attackRow{name: name, want: want, got: got, neighbours: untouched}, nil
}

// dropOnce does the same with a block that never arrives. Each block refused
// before is missing too, so all of these have to be reported first: only then is
// the next gap the one that is meant.
func (d *demo) dropOnce(ctx context.Context, conn *grpc.ClientConn, victim, neighbour string) (attackRow, error) {
	before := 0
	if _, err := poll(ctx, func() (string, error) {
		open, reported, err := d.attackedGaps(ctx)
		if err != nil || reported < open {
			return "", err
		}
		before = reported
		return "all reported", nil
	}); err != nil {
		return attackRow{}, err
	}
	if err := harness.ExportGRPC(ctx, conn, harness.Join(gauge(victim, 41), gauge(neighbour, 7))); err != nil {
		return attackRow{}, err
	}
	got, err := poll(ctx, func() (string, error) {
		_, reported, err := d.attackedGaps(ctx)
		if err != nil || reported == before {
			return "", err
		}
		return "gap", nil
	})
	if err != nil {
		return attackRow{}, err
	}
	return attackRow{name: blockDropped, want: "gap", got: got, neighbours: untouched}, nil
}

// unknownTPM lets a machine that nobody enrolled send through the same gateway.
func (d *demo) unknownTPM(ctx context.Context) (attackRow, error) {
	before, err := d.verdicts(ctx)
	if err != nil {
		return attackRow{}, err
	}
	if err := d.startStranger(ctx); err != nil {
		return attackRow{}, err
	}
	got, err := d.newVerdict(ctx, before)
	if err != nil {
		return attackRow{}, err
	}
	return attackRow{name: "unknown TPM", want: string(reason.UnknownKey), got: got, neighbours: untouched}, nil
}

// newVerdict waits until a refusal is counted that before does not know.
func (d *demo) newVerdict(ctx context.Context, before map[string]float64) (string, error) {
	return poll(ctx, func() (string, error) {
		now, err := d.verdicts(ctx)
		if err != nil {
			return "", err
		}
		for verdict, n := range now {
			if n > before[verdict] {
				return verdict, nil
			}
		}
		return "", nil
	})
}

// poll asks until there is an answer or an error, for 20 s at most.
func poll(ctx context.Context, ask func() (string, error)) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		if answer, err := ask(); err != nil || answer != "" {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return "none (verified?)", nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func gauge(service string, value float64) digest.Batch {
	b := harness.Batch(block.Metrics, service, "", 0, 1)
	m := b.Metrics().ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0)
	m.SetName("reactor.temperature")
	m.SetUnit("Cel")
	m.SetEmptyGauge().DataPoints().AppendEmpty().SetDoubleValue(value)
	return b
}
