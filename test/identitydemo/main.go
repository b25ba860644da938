// Command identitydemo shows identityd on real input: a confidential VM whose quotes
// a mock server forges, a registry that verifies them, an operator and an owner with
// the telemark command, encrypted storage, a container, SSH into it, and the door
// closed behind it for good, which the registry then shows as a verified fact. After
// that the host tries: it reboots the VM, and sets its disk back.
//
//	make demo-identity           # exit 0 only when everything is as it must be
//	make demo-identity KEEP=1    # leaves the exposed VM running and prints the addresses
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

var errNotAsItMustBe = errors.New("something above is not as it must be")

func main() {
	keep := flag.Bool("keep", false, "leave the exposed VM running until interrupted, instead of what its host tries")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *keep); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "demo-identity:", err)
		os.Exit(1)
	}
}

// step says what is going to happen, and does it.
type step struct {
	say string
	do  func(context.Context) error
}

func run(ctx context.Context, keep bool) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("mounting, containers and a VM of one's own need root: sudo make demo-identity")
	}
	began := time.Now()
	d, err := newDemo()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	steps := []step{
		{"a server that forges quotes, and a registry that takes its root for Intel's", d.startWorld},
		{"a VM is started: identityd, with a disk of the host's and a memory of its own", d.startVM},
		{"the operator verifies the quote, and registers", d.registerOperator},
		{"the owner verifies the quote, registers, and sends the key of the storage", d.registerOwner},
		{"the owner configures the workload", d.configure},
		{"the owner works in it by SSH", d.work},
		{"others try", d.intrude},
		{"the owner exposes the workload: SSH is closed for good", d.expose},
		{"anybody asks the registry", d.ask},
	}
	if !keep {
		steps = append(steps,
			step{"the host reboots the VM", d.reboot},
			step{"the host sets the disk back, to when SSH was open", d.setBack})
	}
	for i, s := range steps {
		fmt.Printf("\n[%d/%d] %s\n", i+1, len(steps), s.say)
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%w\nthe last lines of identityd:\n%s", err, d.tail())
		}
	}
	d.report()
	fmt.Printf("\n%d checks, %d not as they must be, in %s\n", d.checks, d.wrong, time.Since(began).Round(time.Second))
	if keep {
		d.keep(ctx)
	}
	if d.wrong > 0 {
		return errNotAsItMustBe
	}
	return nil
}
