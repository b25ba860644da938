// Package pgtest runs private PostgreSQL clusters for tests, from the machine's
// own PostgreSQL (Debian's package postgresql). They listen on a unix socket
// only, sync what they commit as in production, and end with the test binary,
// however that ends.
//
// PostgreSQL refuses to run as root. Tests that do run it as the user postgres.
package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// keeper starts a cluster and stops it when its standard input ends, which is
// when this process does.
const keeper = `
"$1/initdb" -D "$2/data" -U postgres -A trust -E UTF8 --locale=C --no-sync >"$2/log" 2>&1 &&
"$1/pg_ctl" -D "$2/data" -w -t 60 -l "$2/log" -o "$3" start >>"$2/log" 2>&1 &&
echo ready
cat >/dev/null
"$1/pg_ctl" -D "$2/data" -w -m immediate stop >/dev/null 2>&1
rm -rf "$2"
`

// Server is a running cluster.
type Server struct {
	bin, dir string
	keep     io.Closer
	keeper   *exec.Cmd
	names    atomic.Int64
}

var shared struct {
	once   sync.Once
	server *Server
	err    error
}

// DSN returns the address of a new and empty database, in a cluster that all
// tests of the binary share.
func DSN(tb testing.TB) string {
	tb.Helper()
	shared.once.Do(func() { shared.server, shared.err = start() })
	if shared.err != nil {
		tb.Fatal(shared.err)
	}
	return shared.server.DSN(tb)
}

// New starts a cluster of its own for a test that stops or crashes it.
func New(tb testing.TB) *Server {
	tb.Helper()
	s, err := start()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = s.keep.Close()
		_ = s.keeper.Wait()
	})
	return s
}

// DSN returns the address of a new and empty database.
func (s *Server) DSN(tb testing.TB) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.address("postgres"))
	if err != nil {
		tb.Fatalf("connecting to the test's PostgreSQL: %v", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	name := "test" + strconv.FormatInt(s.names.Add(1), 10)
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		tb.Fatalf("making a database: %v", err)
	}
	return s.address(name)
}

// Crash stops the cluster as a power cut would: without a checkpoint, in the
// middle of what it does.
func (s *Server) Crash(tb testing.TB) {
	tb.Helper()
	s.control(tb, "-m", "immediate", "stop")
}

// Stop stops the cluster in good order.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	s.control(tb, "-m", "fast", "stop")
}

// Start starts the cluster again, and waits until it answers.
func (s *Server) Start(tb testing.TB) {
	tb.Helper()
	s.control(tb, "-t", "60", "-l", filepath.Join(s.dir, "log"), "-o", s.options(), "start")
}

func (s *Server) control(tb testing.TB, args ...string) {
	tb.Helper()
	args = append([]string{filepath.Join(s.bin, "pg_ctl"), "-D", filepath.Join(s.dir, "data"), "-w"}, args...)
	name, args, err := asOwner(args)
	if err != nil {
		tb.Fatal(err)
	}
	// The server inherits what this command writes to, so that it is no pipe:
	// waiting for its end would be waiting for the server's.
	cmd := exec.Command(name, args...) //nolint:gosec // pg_ctl, for a test
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Run(); err != nil {
		tb.Fatalf("pg_ctl: %v\n%s", err, s.log())
	}
}

// address is a URL; the user postgres needs no password on the socket, which
// others cannot reach.
func (s *Server) address(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.User("postgres"), Path: "/" + database,
		RawQuery: url.Values{"host": {s.dir}}.Encode(),
	}
	return u.String()
}

func (s *Server) options() string {
	return "-c listen_addresses= -c unix_socket_directories=" + s.dir + " -c shared_buffers=32MB -c fsync=on"
}

func (s *Server) log() []byte {
	b, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return []byte(err.Error())
	}
	return b[max(0, len(b)-4096):]
}

func start() (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	// Paths of unix sockets are short.
	parent := os.TempDir()
	if len(parent) > 60 {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "pgtest")
	if err != nil {
		return nil, err
	}
	if err := giveAway(dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	s := &Server{bin: bin, dir: dir}
	name, args, err := asOwner([]string{"sh", "-c", keeper, "sh", bin, dir, s.options()})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	s.keeper = exec.Command(name, args...) //nolint:gosec // the script above, for a test
	s.keeper.Dir = dir
	// An interrupt at the terminal ends the test; the keeper still has to clean up.
	s.keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := s.keeper.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if s.keep, err = s.keeper.StdinPipe(); err != nil {
		return nil, err
	}
	if err := s.keeper.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting PostgreSQL: %w", err), os.RemoveAll(dir))
	}
	ready := make([]byte, len("ready\n"))
	done := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(out, ready)
		done <- err
	}()
	select {
	case err = <-done:
	case <-time.After(2 * time.Minute):
		err = errors.New("it does not answer")
	}
	if err != nil || !bytes.Equal(ready, []byte("ready\n")) {
		err = fmt.Errorf("starting PostgreSQL: %w\n%s", err, s.log())
		_ = s.keep.Close()
		return nil, err
	}
	return s, nil
}

// binaries returns the folder with initdb and pg_ctl, which Debian keeps out of
// PATH.
func binaries() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(strings.Split(path, "/")[4])
		return n
	}
	if len(found) > 0 {
		return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
	}
	path, err := exec.LookPath("initdb")
	if err != nil {
		return "", errors.New("PostgreSQL is not installed, which this test runs: scripts/setup.sh installs the package postgresql")
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	return filepath.Dir(path), nil
}

// asOwner returns a command line that runs as a user that PostgreSQL accepts.
func asOwner(args []string) (name string, rest []string, err error) {
	if os.Geteuid() != 0 {
		return args[0], args[1:], nil
	}
	if _, err := exec.LookPath("runuser"); err != nil {
		return "", nil, fmt.Errorf("running PostgreSQL as another user than root: %w", err)
	}
	return "runuser", append([]string{"-u", "postgres", "--"}, args...), nil
}

// giveAway makes that user the owner of a folder.
func giveAway(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return fmt.Errorf("PostgreSQL does not run as root: %w", err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	return os.Chown(dir, uid, gid)
}
