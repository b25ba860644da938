package matrix

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/test/harness"
)

// way is the network between gateways and collector, and between agents and the
// gateway's nonce relay, in the hands of somebody who changes what passes. It
// leaves alone what no rule names.
type way struct {
	*harness.Hostile
	relay string // host:port where agents ask for nonces
	world *world

	conn   *grpc.ClientConn
	server *http.Server

	mu     sync.Mutex
	rules  map[string]func(digest.Block) // by service; nil holds the block back
	seen   map[string][]digest.Batch     // requests of one block each, as they came, by service
	open   int                           // requests to the collector without an answer yet
	codes  map[codes.Code]int            // of the collector's answers
	nonces map[string]*nonceRule         // by kid
}

func newWay(w *world, next string) (*way, error) {
	y := &way{world: w, rules: map[string]func(digest.Block){}, seen: map[string][]digest.Batch{}, codes: map[codes.Code]int{}, nonces: map[string]*nonceRule{}}
	var err error
	if y.conn, err = grpc.NewClient(next, grpc.WithTransportCredentials(grpcCredentials(w.networkTLS())), grpc.WithUnaryInterceptor(y.count)); err != nil {
		return nil, err
	}
	if y.Hostile, err = harness.NewHostile(y.conn, grpc.Creds(grpcCredentials(w.networkTLS())), grpc.MaxRecvMsgSize(64<<20)); err != nil {
		return nil, err
	}
	y.Set(y.pass)
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		return nil, err
	}
	y.relay = fmt.Sprintf("localhost:%d", l.Addr().(*net.TCPAddr).Port)
	if config := w.networkTLS(); config != nil {
		l = tls.NewListener(l, config.Clone())
	}
	y.server = &http.Server{Handler: http.HandlerFunc(y.nonce), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = y.server.Serve(l) }()
	return y, nil
}

func (y *way) close() {
	y.Close()
	_ = y.server.Close()
	_ = y.conn.Close()
}

// count is what the collector answered, request by request.
func (y *way) count(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	y.mu.Lock()
	y.open++
	y.mu.Unlock()
	err := invoke(ctx, method, req, reply, cc, opts...)
	y.mu.Lock()
	defer y.mu.Unlock()
	y.open--
	y.codes[status.Code(err)]++
	return err
}

// answered returns, when no request is open, the codes since the last call in
// words.
func (y *way) answered() (words []string, err error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.open > 0 || len(y.codes) == 0 {
		return nil, fmt.Errorf("the collector has answered %v and owes %d answers", y.codes, y.open)
	}
	for c := range y.codes {
		words = append(words, c.String())
	}
	clear(y.codes)
	slices.Sort(words)
	return words, nil
}

func (y *way) underWay() int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.open
}

// pass applies the rules. What is held back is answered as if it had arrived.
func (y *way) pass(request digest.Batch) []digest.Batch {
	y.mu.Lock()
	defer y.mu.Unlock()
	out := digest.NewBatch(request.Signal())
	for i := range request.Len() {
		b := request.At(i)
		name := harness.ServiceOf(b)
		y.seen[name] = append(y.seen[name], harness.One(request, i))
		rule, ok := y.rules[name]
		if ok && rule == nil {
			continue
		}
		if rule != nil {
			rule(b)
		}
		b.CopyTo(out)
	}
	if out.Len() == 0 {
		return nil
	}
	return []digest.Batch{out}
}

// rule says what becomes of the blocks of a service.
func (y *way) rule(service string, do func(digest.Block)) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.rules[service] = do
}

// again sends on, as they came, the blocks of a service that passed or were held.
func (y *way) again(service string) error {
	y.mu.Lock()
	requests := slices.Clone(y.seen[service])
	y.mu.Unlock()
	if len(requests) == 0 {
		return fmt.Errorf("no block of %s has come by", service)
	}
	for _, r := range requests {
		if err := y.Send(context.Background(), r); err != nil {
			return err
		}
	}
	return nil
}

// held returns how many items of a service have come by.
func (y *way) held(service string) (items int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, r := range y.seen[service] {
		items += len(harness.ItemAttributes(r.At(0)))
	}
	return items
}

// The ways to change a block.
var tampers = map[string]func(digest.Block) error{
	"value": func(b digest.Block) error {
		switch b.Signal() {
		case block.Metrics:
			b.Metrics().ScopeMetrics().At(0).Metrics().At(0).Sum().DataPoints().At(0).SetDoubleValue(42)
		case block.Logs:
			b.Logs().ScopeLogs().At(0).LogRecords().At(0).Body().SetStr("order 1 was refunded")
		case block.Traces:
			b.Traces().ScopeSpans().At(0).Spans().At(0).Status().SetMessage("all is well")
		}
		return nil
	},
	"attribute": func(b digest.Block) error {
		harness.ItemAttributes(b)[0].PutStr("approved", "yes")
		return nil
	},
	"resource": func(b digest.Block) error {
		b.Attributes().PutStr("service.version", "6.6.6")
		return nil
	},
	"receipt-off": func(b digest.Block) error {
		b.StripProof()
		return nil
	},
	"location": func(b digest.Block) error {
		return restate(b, func(s *receipt.Statement) {
			if s.Location != nil {
				moved := *s.Location
				moved.Latitude++
				s.Location = &moved
			}
		}, nil)
	},
	// The same statement, signed by another key than the one it names.
	"wrong-key": func(b digest.Block) error {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		return restate(b, func(*receipt.Statement) {}, key)
	},
}

// asKey makes the receipt say that another machine's key has signed it.
func asKey(kid string) func(digest.Block) error {
	return func(b digest.Block) error {
		name, err := hex.DecodeString(kid)
		if err != nil {
			return err
		}
		return restate(b, func(s *receipt.Statement) { s.KID = name }, nil)
	}
}

// restate changes what a receipt states, and signs it with key or leaves the
// signature as it is.
func restate(b digest.Block, change func(*receipt.Statement), key *ecdsa.PrivateKey) error {
	proof, err := b.Proof()
	if err != nil {
		return err
	}
	r, err := receipt.Decode(proof.Receipt)
	if err != nil {
		return err
	}
	change(r.Statement)
	if r.Protected, err = r.Statement.EncodeProtected(); err != nil {
		return err
	}
	if key != nil {
		leaf := receipt.Leaf{Signal: b.Signal(), Stream: r.Stream, BlockNo: r.BlockNo, Items: r.Items, Digest: r.Digest}
		root, err := r.Root(leaf.Hash())
		if err != nil {
			return err
		}
		sum := sha256.Sum256(receipt.SigStructure(r.Protected, root))
		x, y, err := ecdsa.Sign(rand.Reader, key, sum[:])
		if err != nil {
			return err
		}
		r.Signature = append(x.FillBytes(make([]byte, 32)), y.FillBytes(make([]byte, 32))...)
	}
	encoded, err := r.Encode()
	if err != nil {
		return err
	}
	b.StripProof()
	b.Attach(digest.Proof{Receipt: encoded})
	return nil
}
