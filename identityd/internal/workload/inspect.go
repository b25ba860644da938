package workload

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Status is what is known about the container.
type Status struct {
	Phase       Phase     `json:"phase"`
	Running     bool      `json:"running"`
	Revision    uint64    `json:"revision,omitempty"`
	ImageID     string    `json:"image_id,omitempty"`
	ImageDigest string    `json:"image_digest,omitempty"`
	ContainerID string    `json:"container_id,omitempty"`
	StartedAt   time.Time `json:"started_at,omitzero"`
	ExitCode    int       `json:"exit_code"`
	OutOfMemory bool      `json:"out_of_memory,omitempty"`
	Restarts    int       `json:"restarts,omitempty"`

	hash string
}

// containerInspect is the part of Podman's answer that is used here.
type containerInspect struct {
	ID    string `json:"Id"`
	Image string
	State struct {
		Status    string
		Running   bool
		ExitCode  int
		OOMKilled bool
		StartedAt time.Time
	}
	RestartCount    int
	AppArmorProfile string
	EffectiveCaps   []string
	BoundingCaps    []string
	Config          struct{ Labels map[string]string }
	Mounts          []struct {
		Type        string
		Source      string
		Destination string
		Options     []string
		RW          bool
	}
	HostConfig struct {
		NetworkMode, IpcMode, PidMode, UTSMode, CgroupMode, UsernsMode string

		Privileged     bool
		ReadonlyRootfs bool
		SecurityOpt    []string
		Memory         int64
		MemorySwap     int64
		PidsLimit      int64
		Devices        []any
		Tmpfs          map[string]string
		IDMappings     *struct{ UIDMap, GIDMap []string }
		PortBindings   map[string][]struct {
			HostIP   string `json:"HostIp"`
			HostPort string
		}
	}
}

// Inspect says what there is now. A container of our name that is not ours is
// NameTaken.
func (m *Manager) Inspect(ctx context.Context) (Status, error) {
	found, err := m.inspect(ctx)
	if err != nil || found == nil {
		return Status{Phase: Absent}, err
	}
	return found.status()
}

// inspect returns nil when there is no container.
func (m *Manager) inspect(ctx context.Context) (*containerInspect, error) {
	var found containerInspect
	err := m.api.call(ctx, http.MethodGet, "/containers/"+Name+"/json", nil, nil, &found)
	if notFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &found, nil
}

// settled is inspect, and waits a little while Podman still clears away after a
// container that has just ended: starting or removing it under that leaves
// network namespaces behind. Cleared away, "stopped" becomes "exited".
func (m *Manager) settled(ctx context.Context) (*containerInspect, error) {
	for deadline := time.Now().Add(settleTime); ; {
		found, err := m.inspect(ctx)
		if err != nil || found == nil || found.State.Status != "stopped" || time.Now().After(deadline) {
			return found, err
		}
		select {
		case <-ctx.Done():
			return nil, &Error{PodmanTimeout, "wait for podman to clear away", ctx.Err()}
		case <-time.After(pollTime):
		}
	}
}

func (c *containerInspect) status() (Status, error) {
	labels := c.Config.Labels
	phase := Phase(labels[labelPhase])
	revision, err := strconv.ParseUint(labels[labelRevision], 10, 64)
	if labels[labelHash] == "" || err != nil || phase != Configured && phase != Published {
		return Status{}, refuse(NameTaken, "a container named %s exists that was not made here: remove it with `podman rm`", Name)
	}
	return Status{
		Phase: phase, Running: c.State.Running, Revision: revision,
		ImageID: strings.TrimPrefix(c.Image, "sha256:"), ImageDigest: labels[labelDigest], ContainerID: c.ID,
		StartedAt: c.State.StartedAt, ExitCode: c.State.ExitCode, OutOfMemory: c.State.OOMKilled, Restarts: c.RestartCount,
		hash: labels[labelHash],
	}, nil
}

// verify holds what Podman made against what was asked for, since a field that
// a version of Podman does not know is ignored by it in silence.
func (m *Manager) verify(c *containerInspect, want *createRequest) error {
	h := &c.HostConfig
	wrong := ""
	check := func(name string, ok bool) {
		if !ok && wrong == "" {
			wrong = name
		}
	}
	allowed := func(have []string) bool {
		return !slices.ContainsFunc(have, func(name string) bool { return !slices.Contains(want.CapAdd, name) })
	}
	check("image", strings.TrimPrefix(c.Image, "sha256:") == want.Image)
	check("privileged", !h.Privileged)
	check("capabilities", allowed(c.EffectiveCaps) && allowed(c.BoundingCaps))
	check("read-only root", h.ReadonlyRootfs)
	check("no-new-privileges", slices.Contains(h.SecurityOpt, "no-new-privileges"))
	check("seccomp", !slices.ContainsFunc(h.SecurityOpt, func(o string) bool {
		return strings.HasPrefix(o, "seccomp=") && o != "seccomp="+want.SeccompProfile
	}))
	check("AppArmor", !m.host.appArmor || c.AppArmorProfile != "" && c.AppArmorProfile != "unconfined")
	check("memory limit", h.Memory == want.Resources.Memory.Limit)
	check("pids limit", h.PidsLimit == want.Resources.Pids.Limit)
	check("devices", len(h.Devices) == 0)
	check("tmpfs", h.Tmpfs["/tmp"] != "" && h.Tmpfs["/run"] != "")
	for _, mode := range []string{h.NetworkMode, h.IpcMode, h.PidMode, h.UTSMode, h.CgroupMode, h.UsernsMode} {
		check("namespaces", mode != "host" && !strings.HasPrefix(mode, "container:") && !strings.HasPrefix(mode, "ns:"))
	}
	ids := strings.Join([]string{"0", strconv.Itoa(idBase), strconv.Itoa(idCount)}, ":")
	check("user namespace", h.IDMappings != nil && slices.Equal(h.IDMappings.UIDMap, []string{ids}) && slices.Equal(h.IDMappings.GIDMap, []string{ids}))
	check("ports", portsAsAsked(c, want))
	check("mounts", m.mountsAsAsked(c, want))
	if wrong != "" {
		return refuse(NotHardened, "podman made a container with other settings than asked for: %s", wrong)
	}
	return nil
}

// portsAsAsked also looks at the address: a port for the proxy on loopback must not
// be open to everybody.
func portsAsAsked(c *containerInspect, want *createRequest) bool {
	ports := 0
	for inside, bindings := range c.HostConfig.PortBindings {
		for _, b := range bindings {
			ports++
			if !slices.ContainsFunc(want.PortMappings, func(w portMapping) bool {
				return inside == strconv.Itoa(int(w.ContainerPort))+"/tcp" && b.HostPort == strconv.Itoa(int(w.HostPort)) &&
					(b.HostIP == w.HostIP || b.HostIP == "" && w.HostIP == "0.0.0.0")
			}) {
				return false
			}
		}
	}
	return ports == len(want.PortMappings)
}

func (m *Manager) mountsAsAsked(c *containerInspect, want *createRequest) bool {
	binds := 0
	for _, mount := range c.Mounts {
		if mount.Type != "bind" {
			continue
		}
		binds++
		asked := slices.ContainsFunc(want.Mounts, func(w createMount) bool {
			return w.Type == "bind" && w.Destination == mount.Destination && w.Source == mount.Source
		})
		if !asked {
			return false
		}
		for _, option := range m.opts.confined() {
			if !slices.Contains(mount.Options, option) {
				return false
			}
		}
	}
	return binds == len(want.Mounts)-2 // without /tmp and /run
}
