package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/podmantest"
	"github.com/telemark-otel/telemark/test/harness"
	"github.com/telemark-otel/telemark/test/identitylab"
)

// demo is the world, and what was found in it.
type demo struct {
	dir      string
	telemark string // the command
	lab      string // URL
	labs     *http.Server
	root     string // file
	registry *harness.Registry
	vm       *identitylab.VM

	checks, wrong int
	facts         []fact
}

const (
	image = "localhost/page:1"
	page  = "Served from the encrypted volume, copied in by SSH before it was closed."
)

func newDemo() (*demo, error) {
	dir, err := os.MkdirTemp("", "identity")
	if err != nil {
		return nil, err
	}
	d := &demo{dir: dir}
	d.telemark, err = harness.Bin("telemark")
	return d, err
}

func (d *demo) file(name string) string { return filepath.Join(d.dir, name) }

func (d *demo) close() error {
	var errs []error
	if d.vm != nil {
		errs = append(errs, d.vm.Remove())
	}
	if d.registry != nil {
		d.registry.Kill()
	}
	if d.labs != nil {
		errs = append(errs, d.labs.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(d.dir))...)
}

func (d *demo) tail() string {
	if d.vm == nil {
		return "(it was not started)"
	}
	return d.vm.Tail(10)
}

// check says whether something is as it must be.
func (d *demo) check(ok bool, format string, a ...any) {
	d.checks++
	mark := "ok"
	if !ok {
		d.wrong++
		mark = "NOT AS IT MUST BE"
	}
	fmt.Printf("      %s  %s\n", mark, fmt.Sprintf(format, a...))
}

func say(format string, a ...any) { fmt.Printf("      %s\n", fmt.Sprintf(format, a...)) }

// people runs the telemark command, shown without what is the same in all calls.
func (d *demo) people(ctx context.Context, args ...string) (string, error) {
	d.shown(args)
	out, errs, err := d.try(ctx, args...)
	if err != nil {
		return out, fmt.Errorf("telemark %s: %w: %s", strings.Join(args[:2], " "), err, errs)
	}
	return out, nil
}

func (d *demo) shown(args []string) {
	fmt.Printf("    $ telemark %s\n", strings.ReplaceAll(strings.Join(args, " "), d.dir+"/", ""))
}

func (d *demo) try(ctx context.Context, args ...string) (out, errs string, err error) {
	believing := []string{}
	if args[1] != "key" {
		believing = []string{"--quote-roots", d.root, "--pccs-url", d.lab}
	}
	// What follows -- is not for it.
	at := len(args)
	for i, a := range args {
		if a == "--" {
			at = i
			break
		}
	}
	args = append(append(append([]string{}, args[:at]...), believing...), args[at:]...)
	cmd := exec.CommandContext(ctx, d.telemark, args...)
	cmd.Env = append(os.Environ(), "TELEMARK_INSTANCES="+d.file("instances"))
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	return o.String(), strings.TrimSpace(e.String()), err
}

// json runs the command and reads what it prints.
func (d *demo) json(ctx context.Context, into any, args ...string) error {
	out, err := d.people(ctx, append(args, "--output", "json")...)
	if err != nil {
		return err
	}
	return json.NewDecoder(strings.NewReader(out)).Decode(into)
}

// state is what the instance says without a quote.
func (d *demo) state(ctx context.Context) (*api.State, error) {
	body, err := get(ctx, d.vm.URL+api.PathState)
	if err != nil {
		return nil, err
	}
	s := &api.State{}
	return s, json.Unmarshal([]byte(body), s)
}

func get(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %.200s", url, resp.Status, b)
	}
	return strings.TrimSpace(string(b)), err
}

// soon tries until there is no error.
func soon(ctx context.Context, try func() error) error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		err := try()
		if err == nil || time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// makeImage makes the workload's image from a program that is built here: no
// registry of images is needed.
func (d *demo) makeImage(ctx context.Context) error {
	program := d.file("program")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./internal/podmantest/program")
	cmd.Dir, cmd.Env = harness.Root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the workload: %w: %s", err, out)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	layer, err := podmantest.LayerOf(content, "/bin/sh")
	if err != nil {
		return err
	}
	return d.vm.Podman.ImportLayer(image, `["/program","serve","@/data/page"]`, bytes.NewReader(layer))
}
