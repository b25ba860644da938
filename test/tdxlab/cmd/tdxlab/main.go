// Command tdxlab serves forged TDX quotes and the collateral that fits them,
// for tests and demonstrations: see package tdxlab. What trusts its root
// trusts anybody who can reach it.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/telemark-otel/telemark/test/tdxlab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tdxlab:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to be cleaned up
	}
}

const usage = `usage: tdxlab [serve] [--listen ADDRESS] [--dir DIR]    serve quotes and collateral
       tdxlab bundle [--dir DIR] OUT                    write collateral of today to the directory OUT
       tdxlab quote [--dir DIR] REPORTDATA              write a quote to standard output`

func run(ctx context.Context, args []string) error {
	command := "serve"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		command, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet("tdxlab "+command, flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprintln(os.Stderr, usage); flags.PrintDefaults() }
	dir := flags.String("dir", "tdxlab", "directory of the seed, the root and the address")
	listen := flags.String("listen", "127.0.0.1:8081", "address to serve on; port 0 takes a free one")
	if err := flags.Parse(args); err != nil {
		return err
	}
	lab, err := open(*dir)
	if err != nil {
		return err
	}
	switch {
	case command == "serve" && flags.NArg() == 0:
		return serve(ctx, lab, *dir, *listen)
	case command == "bundle" && flags.NArg() == 1:
		return lab.WriteBundle(flags.Arg(0), time.Now())
	case command == "quote" && flags.NArg() == 1:
		report, err := hex.DecodeString(flags.Arg(0))
		if err != nil || len(report) != 64 {
			return errors.New("report data are 128 hexadecimal digits")
		}
		_, err = os.Stdout.Write(lab.Quote([64]byte(report)))
		return err
	default:
		return errors.New(usage)
	}
}

// open takes the seed of a directory, or begins one, and writes the root
// beside it.
func open(dir string) (*tdxlab.Lab, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "seed")
	seed, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		seed = []byte(rand.Text())
		err = os.WriteFile(path, seed, 0o600)
	}
	if err != nil {
		return nil, err
	}
	lab := tdxlab.New(strings.TrimSpace(string(seed)))
	return lab, os.WriteFile(filepath.Join(dir, "root.pem"), lab.RootPEM(), 0o644)
}

func serve(ctx context.Context, lab *tdxlab.Lab, dir, address string) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	at := "http://" + listener.Addr().String()
	if err := os.WriteFile(filepath.Join(dir, "address"), []byte(at+"\n"), 0o644); err != nil {
		return err
	}
	fmt.Println("tdxlab: forged quotes on", at, "under", filepath.Join(dir, "root.pem"))
	server := &http.Server{Handler: lab.Handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return server.Shutdown(stop)
	}
}
