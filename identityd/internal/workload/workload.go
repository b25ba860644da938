package workload

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	stopSeconds = 10       // between SIGTERM and SIGKILL
	maxLog      = 10 << 20 // bytes of output that Podman keeps

	removeAttempts = 10
	removePause    = 200 * time.Millisecond
	settleTime     = 3 * time.Second
)

// Limits bound what the workload takes from the machine.
type Limits struct {
	Memory int64 // bytes, without swap; 0: four fifths of the machine's
	Pids   int64 // processes and threads; 0: 4096
	Tmp    int64 // bytes in each of /tmp and /run, part of Memory; 0: 64 MiB
}

// Options say where Podman is and what the container may take.
type Options struct {
	Socket      string        // default /run/podman/podman.sock
	Limits      Limits        //
	LogPath     string        // file for the workload's output; "": beside Podman's storage
	PullTimeout time.Duration // of a pull, an export or an import; default 15 minutes
	MaxArchive  int64         // bytes of an exported image; default 16 GiB
	// Exec lets programs in persisted directories be executed. Off, since what was
	// planted there while SSH was open outlives its closing.
	Exec bool
}

// Manager looks after the container. Its methods may be called at any time by
// anybody; steps that change something wait for one another.
type Manager struct {
	opts Options
	api  *client
	host host

	step sync.Mutex // held while the container is changed
}

// host is what the machine offers.
type host struct {
	seccompProfile string
	appArmor       bool
}

// Open connects to Podman and looks whether the machine can confine a
// container.
func Open(ctx context.Context, opts Options) (*Manager, error) {
	if opts.Socket == "" {
		opts.Socket = "/run/podman/podman.sock"
	}
	if opts.PullTimeout == 0 {
		opts.PullTimeout = defaultPullTime
	}
	if opts.MaxArchive == 0 {
		opts.MaxArchive = defaultMaxArchive
	}
	if err := opts.Limits.complete(); err != nil {
		return nil, err
	}
	api, err := dial(ctx, opts.Socket)
	if err != nil {
		return nil, err
	}
	m := &Manager{opts: opts, api: api}
	return m, m.look(ctx)
}

// Close drops idle connections. The container goes on.
func (m *Manager) Close() { m.api.http.CloseIdleConnections() }

func (m *Manager) look(ctx context.Context) error {
	var info struct {
		Host struct {
			Security struct {
				AppArmorEnabled    bool   `json:"apparmorEnabled"`
				SeccompEnabled     bool   `json:"seccompEnabled"`
				SeccompProfilePath string `json:"seccompProfilePath"`
				Rootless           bool   `json:"rootless"`
			} `json:"security"`
		} `json:"host"`
	}
	if err := m.api.call(ctx, http.MethodGet, "/info", nil, nil, &info); err != nil {
		return err
	}
	s := info.Host.Security
	if s.Rootless {
		return refuse(HostUnsuitable, "podman runs without root here: persisted directories and ports need the system's own service")
	}
	if !s.SeccompEnabled {
		return refuse(HostUnsuitable, "podman or this kernel has no seccomp: the workload could not be confined")
	}
	if s.SeccompProfilePath == "" {
		s.SeccompProfilePath = "/usr/share/containers/seccomp.json"
	}
	if _, err := os.Stat(s.SeccompProfilePath); err != nil {
		return &Error{HostUnsuitable, "the default seccomp profile is missing: install golang-github-containers-common (Debian) or containers-common", err}
	}
	m.host = host{seccompProfile: s.SeccompProfilePath, appArmor: s.AppArmorEnabled}
	return nil
}

// complete puts the defaults in and refuses what would not limit.
func (l *Limits) complete() error {
	if l.Memory == 0 {
		total, err := memTotal()
		if err != nil {
			return &Error{HostUnsuitable, "find out how much memory there is", err}
		}
		l.Memory = total / 5 * 4
	}
	if l.Pids == 0 {
		l.Pids = 4096
	}
	if l.Tmp == 0 {
		l.Tmp = 64 << 20
	}
	if l.Memory < 16<<20 || l.Pids < 8 || l.Tmp < 4096 {
		return refuse(SpecInvalid, "limits too small: memory %d, pids %d, tmp %d; want at least 16 MiB, 8 and 4 KiB", l.Memory, l.Pids, l.Tmp)
	}
	return nil
}

func memTotal() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) == 3 && fields[0] == "MemTotal:" {
			kib, err := strconv.ParseInt(fields[1], 10, 53)
			return kib << 10, err
		}
	}
	return 0, errors.Join(lines.Err(), errors.New("no MemTotal in /proc/meminfo"))
}

// EnsureConfigured makes and starts the container without a port. One that was
// made for the same spec stays as it is, and is started if it does not run; any
// other one of ours is replaced. Persisted directories are not touched.
func (m *Manager) EnsureConfigured(ctx context.Context, spec Spec) (Status, error) {
	return m.ensure(ctx, &spec, Configured)
}

// EnsurePublished makes the container anew from the same image, now with its
// port. Call CanPublish first: it finds what can be known to fail while the
// configured container still stands.
func (m *Manager) EnsurePublished(ctx context.Context, spec Spec) (Status, error) {
	return m.ensure(ctx, &spec, Published)
}

// CanPublish reports what would keep EnsurePublished from working. It changes
// nothing.
func (m *Manager) CanPublish(ctx context.Context, spec Spec) error {
	if err := spec.validate(); err != nil {
		return err
	}
	if err := m.present(ctx, spec.Image); err != nil {
		return err
	}
	now, err := m.Inspect(ctx)
	if err != nil {
		return err
	}
	if now.Phase == Published && now.Running {
		return nil // the port is taken, by ourselves
	}
	return portFree(ctx, &spec)
}

// EnsureGone removes the container, if there is one.
func (m *Manager) EnsureGone(ctx context.Context) error {
	m.step.Lock()
	defer m.step.Unlock()
	found, err := m.settled(ctx)
	if err != nil || found == nil {
		return err
	}
	if _, err := found.status(); err != nil {
		return err
	}
	return m.remove(ctx, found.ID)
}

func (m *Manager) ensure(ctx context.Context, spec *Spec, phase Phase) (Status, error) {
	m.step.Lock()
	defer m.step.Unlock()
	if err := spec.validate(); err != nil {
		return Status{}, err
	}
	hash, err := spec.hash(phase, &m.opts)
	if err != nil {
		return Status{}, err
	}
	if err := m.present(ctx, spec.Image); err != nil {
		return Status{}, err
	}
	for _, mount := range spec.Mounts {
		if err := mount.own(); err != nil {
			return Status{}, err
		}
	}
	want := m.request(spec, phase, hash)
	found, err := m.settled(ctx)
	if err != nil {
		return Status{}, err
	}
	if found != nil {
		now, err := found.status()
		if err != nil {
			return Status{}, err
		}
		if now.hash == hash && m.verify(found, want) == nil {
			return m.run(ctx, spec, now)
		}
		if err := m.remove(ctx, found.ID); err != nil {
			return Status{}, err
		}
	}
	return m.make(ctx, spec, want)
}

// make creates, verifies and starts. What was created and is not right, or does
// not start, is removed again.
func (m *Manager) make(ctx context.Context, spec *Spec, want *createRequest) (Status, error) {
	var created struct {
		ID string `json:"Id"`
	}
	if err := m.api.call(ctx, http.MethodPost, "/containers/create", nil, want, &created); err != nil {
		return Status{}, &Error{reasonOfCreate(err), "create the container", err}
	}
	now, err := m.start(ctx, spec, want)
	if err != nil {
		// Also when the caller is no longer there to wait for it.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
		defer cancel()
		return Status{}, errors.Join(err, m.remove(cleanup, created.ID))
	}
	return now, nil
}

func (m *Manager) start(ctx context.Context, spec *Spec, want *createRequest) (Status, error) {
	found, err := m.inspect(ctx)
	if err != nil {
		return Status{}, err
	}
	if found == nil {
		return Status{}, refuse(PodmanFailed, "the container that was made is not there")
	}
	if err := m.verify(found, want); err != nil {
		return Status{}, err
	}
	now, err := found.status()
	if err != nil {
		return Status{}, err
	}
	return m.run(ctx, spec, now)
}

// run starts the container unless it runs. A workload that ends at once is no
// failure: that stands in the status.
func (m *Manager) run(ctx context.Context, spec *Spec, now Status) (Status, error) {
	if now.Running {
		return now, nil
	}
	if now.Phase == Published {
		if err := portFree(ctx, spec); err != nil {
			return Status{}, err
		}
	}
	err := m.api.call(ctx, http.MethodPost, "/containers/"+now.ContainerID+"/start", nil, nil, nil)
	if err != nil {
		if e, ok := errors.AsType[*statusError](err); ok {
			reason := StartFailed
			if strings.Contains(e.message, "address already in use") {
				reason = PortTaken
			}
			return Status{}, &Error{reason, "start the container", err}
		}
		return Status{}, err
	}
	return m.Inspect(ctx)
}

// remove stops the container, gives it time to end, and deletes it with its
// anonymous volumes. Podman's own cleaning up after a container that has just
// ended can be in the way, so it is tried a few times.
func (m *Manager) remove(ctx context.Context, id string) error {
	query := url.Values{"force": {"true"}, "v": {"true"}, "timeout": {strconv.Itoa(stopSeconds)}}
	for attempt := 1; ; attempt++ {
		err := m.api.call(ctx, http.MethodDelete, "/containers/"+id, query, nil, nil)
		if err == nil || notFound(err) {
			return nil
		}
		if e, ok := errors.AsType[*statusError](err); !ok || e.status < 500 || attempt == removeAttempts {
			return &Error{ReasonOf(err), "remove the container", err}
		}
		select {
		case <-ctx.Done():
			return &Error{PodmanTimeout, "remove the container", ctx.Err()}
		case <-time.After(removePause):
		}
	}
}

func reasonOfCreate(err error) Reason {
	if e, ok := errors.AsType[*statusError](err); ok {
		switch {
		case strings.Contains(e.message, "image not known"):
			return ImageNotFound
		case strings.Contains(e.message, "is already in use"):
			return NameTaken
		}
	}
	return ReasonOf(err)
}

// portFree tries the port. Somebody else may still take it before Podman does;
// then Podman says so.
func portFree(ctx context.Context, spec *Spec) error {
	address := net.JoinHostPort(spec.hostIP(), strconv.Itoa(int(spec.HostPort)))
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return refuse(PortTaken, "port %d is taken by another program", spec.HostPort)
	case err != nil:
		return &Error{PortInvalid, fmt.Sprintf("listen on port %d", spec.HostPort), err}
	}
	return l.Close()
}
