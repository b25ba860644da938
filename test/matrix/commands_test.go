package matrix

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/test/harness"
)

// commands are the words of the scripts, besides those of testscript. What a
// command was answered is its standard output, for 'stdout'. A "!" in front is
// not taken: there are words for what must not be.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"machines": word(2, machines),
	"config":   word(2, config),
	"start":    word(1, func(s scene, args []string) error { return s.start(args...) }),
	"halt":     word(1, halt),
	"crash":    word(1, crash),
	"tpm":      word(2, tpm),
	"revoke":   word(2, revoke),
	"fix":      word(2, fix),

	"generate": word(4, generate),
	"make":     word(3, makeMetrics),
	"ask":      word(3, ask),
	"overflow": word(1, overflow),
	"closed":   word(1, func(s scene, args []string) error { return s.each(args, s.closed) }),

	"hold":   word(1, hold),
	"again":  word(1, again),
	"tamper": word(2, tamper),
	"nonces": word(2, nonces),

	"arrived":   word(1, func(s scene, args []string) error { return s.each(args, s.arrived) }),
	"absent":    word(1, func(s scene, args []string) error { return s.each(args, s.absent) }),
	"untouched": word(1, func(s scene, args []string) error { return s.each(args, s.untouched) }),
	"counter":   word(3, counter),
	"refused":   word(2, refused),
	"answered":  word(1, answered),
	"settled":   word(0, settled),
	"inspect":   word(1, inspect),
}

// scene is a world in the hands of a script.
type scene struct {
	*world
	ts *testscript.TestScript
}

func (s scene) say(format string, args ...any) {
	_, _ = fmt.Fprintf(s.ts.Stdout(), format+"\n", args...)
}

func (s scene) each(names []string, do func(string) error) error {
	for _, name := range names {
		if err := do(name); err != nil {
			return err
		}
	}
	return nil
}

// word makes a command that takes at least so many arguments.
func word(least int, do func(scene, []string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) < least {
			ts.Fatalf("usage: at least %d arguments, and no !", least)
		}
		w := ts.Value(worldKey{}).(*world)
		if err := do(scene{w, ts}, args); err != nil {
			ts.Fatalf("%v\n%s", err, w.report())
		}
	}
}

// machines is "machines enrolled|unknown|own-tpm|by-stock NAME…": agents, each with
// a TPM and a key. The key is in the key file unless they are unknown. own-tpm: the
// script can end the TPM. by-stock: they send to the stock gateway, and get nonces
// from the collector. $NAME becomes the kid.
func machines(s scene, args []string) error {
	kind, names := args[0], args[1:]
	if !slices.Contains([]string{"enrolled", "unknown", "own-tpm", "by-stock"}, kind) {
		return fmt.Errorf("machines are not %q", kind)
	}
	for _, name := range names {
		n, err := s.add(name, agent)
		if err != nil {
			return err
		}
		switch kind {
		case "own-tpm":
			if err := s.serveTPM(n); err != nil {
				return err
			}
		case "by-stock":
			n.Env = append(n.Env, "OTEL_ENDPOINT="+s.nodes[string(stock)].grpc, "TELEMARK_NONCES="+s.scheme()+"://"+s.nodes[string(collector)].http)
		}
	}
	if err := s.enrol(kind == "unknown", names...); err != nil {
		return err
	}
	for _, name := range names {
		s.ts.Setenv(strings.ToUpper(name), s.nodes[name].kid)
	}
	return nil
}

// config is "config NODE FILE": another overlay, before the node is started.
func config(s scene, args []string) error {
	n, err := s.node(args[0])
	if err != nil {
		return err
	}
	n.overlays = append(n.overlays, s.ts.MkAbs(args[1]))
	return nil
}

// halt is "halt NODE…", as an operator does.
func halt(s scene, args []string) error {
	return s.each(args, func(name string) error {
		n, err := s.node(name)
		if err != nil {
			return err
		}
		return n.Stop(stopTime)
	})
}

// crash is "crash NODE…", as a power cut does.
func crash(s scene, args []string) error {
	return s.each(args, func(name string) error {
		n, err := s.node(name)
		if err != nil {
			return err
		}
		n.Kill()
		return nil
	})
}

// tpm is "tpm MACHINE gone|back".
func tpm(s scene, args []string) error {
	n, err := s.node(args[0])
	if err != nil {
		return err
	}
	switch {
	case n.tpm == nil:
		return fmt.Errorf("%s has no TPM of its own; it is not of 'machines own-tpm'", n.Name)
	case args[1] == "gone":
		n.tpm.Kill()
		return nil
	default:
		return n.startTPM()
	}
}

// revoke is "revoke MACHINE REASON": in the key file. It returns when the
// collector has read it.
func revoke(s scene, args []string) error {
	file, err := s.readKeys()
	if err != nil {
		return err
	}
	read := s.keysRead()
	for _, k := range file.Keys {
		if k["name"] == args[0] {
			k["revoked"] = args[1]
		}
	}
	if err := s.writeKeys(file); err != nil {
		return err
	}
	return eventually(func() error {
		if s.keysRead() == read {
			return fmt.Errorf("the collector has not read the key file again")
		}
		return nil
	})
}

func (s scene) keysRead() int {
	log, err := os.ReadFile(s.nodes[string(collector)].Log)
	s.ts.Check(err)
	return strings.Count(string(log), `"msg":"keys read"`)
}

// fix is "fix MACHINE LATITUDE LONGITUDE AGE" or "fix MACHINE none": what its position
// file says, with an accuracy of 10 metres.
func fix(s scene, args []string) error {
	n, err := s.node(args[0])
	if err != nil {
		return err
	}
	if len(args) == 2 {
		return os.Remove(n.fix)
	}
	age, err := time.ParseDuration(args[3])
	if err != nil {
		return err
	}
	content := fmt.Sprintf(`{"latitude": %s, "longitude": %s, "accuracy": 10, "time": %q}`, args[1], args[2], time.Now().Add(-age).UTC().Format(time.RFC3339))
	if err := os.WriteFile(n.fix+".new", []byte(content), 0o600); err != nil {
		return err
	}
	if err := os.Rename(n.fix+".new", n.fix); err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // the agent looks at it ten times a second, and says nothing of it
	return nil
}

// generate is "generate MACHINE KIND SERVICE ITEMS [HOST]": an application sends
// items in requests of ten over gRPC, and is told OK each time. KIND is logs,
// traces, or a type of metric: gauge, sum, histogram, exponential_histogram, summary.
func generate(s scene, args []string) error {
	n, err := s.node(args[0])
	if err != nil {
		return err
	}
	items, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	host := ""
	if len(args) > 4 {
		host = args[4]
	}
	conn, err := s.dial(n.grpc)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	sent := &service{machine: n.Name, first: s.items, n: items}
	s.items += int64(items)
	s.services[args[2]] = sent
	for at := 0; at < items; at += 10 {
		var request digest.Batch
		if request, err = batch(args[1], args[2], host, sent.first+int64(at), min(10, items-at)); err != nil {
			return err
		}
		sent.signal = request.Signal()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err = harness.ExportGRPC(ctx, conn, request)
		cancel()
		if err != nil {
			return fmt.Errorf("%s answered: %w", n.Name, err)
		}
	}
	s.say("OK")
	return nil
}

// hold is "hold SERVICE…": its blocks do not reach the collector from now on,
// though the gateway is told that they have.
func hold(s scene, args []string) error {
	for _, service := range args {
		s.way.rule(service, nil)
	}
	return nil
}

// again is "again SERVICE…": all its blocks are sent to the collector as they came
// from the agent, after all of them have come by.
func again(s scene, args []string) error {
	return s.each(args, func(name string) error {
		sent, err := s.service(name)
		if err != nil {
			return err
		}
		err = eventually(func() error {
			if held := s.way.held(name); held < sent.n {
				return fmt.Errorf("%d items of %s have come by, of %d", held, name, sent.n)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return s.way.again(name)
	})
}

// tamper is "tamper value|attribute|resource|location|receipt-off|wrong-key SERVICE"
// or "tamper key-of=MACHINE SERVICE": its blocks are changed on the way.
func tamper(s scene, args []string) error {
	do := tampers[args[0]]
	if machine, ok := strings.CutPrefix(args[0], "key-of="); ok {
		n, err := s.node(machine)
		if err != nil {
			return err
		}
		do = asKey(n.kid)
	}
	if do == nil {
		return fmt.Errorf("there is no way to tamper with %q", args[0])
	}
	s.way.rule(args[1], func(b digest.Block) {
		if err := do(b); err != nil {
			panic(err) // the block is one that the agent has signed
		}
	})
	return nil
}

// nonces is "nonces MACHINE of=OTHER|kept|honest": from now on it is given nonces of
// another machine, or the same one again and again. It returns when the machine
// signs under one of those.
func nonces(s scene, args []string) error {
	n, err := s.node(args[0])
	if err != nil {
		return err
	}
	rule := &nonceRule{keep: args[1] == "kept"}
	if machine, ok := strings.CutPrefix(args[1], "of="); ok {
		other, err := s.node(machine)
		if err != nil {
			return err
		}
		rule.other = other.kid
	}
	return s.way.rig(n.kid, rule)
}
