package workload

import (
	"fmt"
	"slices"
	"strconv"
)

// hardeningVersion changes when containers made by an earlier version are to be
// made anew.
const hardeningVersion = 1

// The container's user namespace: root and everybody else in it are nobody on
// the host. The range begins above what Debian gives to people in /etc/subuid.
const (
	idBase  = 1 << 24
	idCount = 1 << 16
)

// capabilities are what images commonly need to start as root, take their files
// and step down to another user. All others are dropped.
var capabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID",
}

// Labels of the container, by which a step finds out what was done.
const (
	labelHash     = "io.telemark.workload.spec"
	labelPhase    = "io.telemark.workload.phase"
	labelRevision = "io.telemark.workload.revision"
	labelDigest   = "io.telemark.workload.image-digest"
)

// What follows is the part of Podman's SpecGenerator that is used here. Fields
// that Podman would otherwise fill from containers.conf or from the image, and
// that bear on isolation, are all set.

type createRequest struct {
	Name             string            `json:"name"`
	Image            string            `json:"image"`
	Labels           map[string]string `json:"labels"`
	Hostname         string            `json:"hostname"`
	CapDrop          []string          `json:"cap_drop"`
	CapAdd           []string          `json:"cap_add"`
	Privileged       bool              `json:"privileged"`
	NoNewPrivileges  bool              `json:"no_new_privileges"`
	SeccompPolicy    string            `json:"seccomp_policy"`
	SeccompProfile   string            `json:"seccomp_profile_path"`
	ReadOnly         bool              `json:"read_only_filesystem"`
	ImageVolumeMode  string            `json:"image_volume_mode"`
	HTTPProxy        bool              `json:"httpproxy"`
	EnvHost          bool              `json:"env_host"`
	Systemd          string            `json:"systemd"`
	SdNotify         string            `json:"sdnotifyMode"`
	HealthConfig     map[string]any    `json:"healthconfig"`
	NetNS            namespace         `json:"netns"`
	PidNS            namespace         `json:"pidns"`
	IpcNS            namespace         `json:"ipcns"`
	UtsNS            namespace         `json:"utsns"`
	CgroupNS         namespace         `json:"cgroupns"`
	UserNS           namespace         `json:"userns"`
	IDMappings       idMappings        `json:"idmappings"`
	Resources        resources         `json:"resource_limits"`
	Mounts           []createMount     `json:"mounts"`
	PortMappings     []portMapping     `json:"portmappings,omitempty"`
	StopTimeout      uint              `json:"stop_timeout"`
	RestartPolicy    string            `json:"restart_policy"`
	LogConfiguration map[string]any    `json:"log_configuration"`
}

type namespace struct {
	Mode string `json:"nsmode"`
}

type idMappings struct {
	HostUIDMapping bool
	HostGIDMapping bool
	UIDMap         []idMap
	GIDMap         []idMap
}

type idMap struct {
	ContainerID int `json:"container_id"`
	HostID      int `json:"host_id"`
	Size        int `json:"size"`
}

type resources struct {
	Memory memoryLimits `json:"memory"`
	Pids   pidsLimit    `json:"pids"`
}

type memoryLimits struct {
	Limit int64 `json:"limit"`
	// Swap is memory and swap together. Equal to Limit there is no swap, which
	// would be the workload's memory on the host's disk.
	Swap int64 `json:"swap"`
}

type pidsLimit struct {
	Limit int64 `json:"limit"`
}

type createMount struct {
	Destination string   `json:"destination"`
	Type        string   `json:"type"`
	Source      string   `json:"source"`
	Options     []string `json:"options"`
}

type portMapping struct {
	ContainerPort uint16 `json:"container_port"`
	HostPort      uint16 `json:"host_port"`
	HostIP        string `json:"host_ip"`
	Protocol      string `json:"protocol"`
}

// request describes the container to Podman.
func (m *Manager) request(s *Spec, phase Phase, hash string) *createRequest {
	private, ids := namespace{"private"}, []idMap{{0, idBase, idCount}}
	r := &createRequest{
		Name: Name, Image: s.Image.ID, Hostname: Name,
		Labels: map[string]string{
			labelHash: hash, labelPhase: string(phase),
			labelRevision: strconv.FormatUint(s.Revision, 10), labelDigest: s.Image.Digest,
		},
		CapDrop: []string{"ALL"}, CapAdd: slices.Clone(capabilities), NoNewPrivileges: true,
		SeccompPolicy: "default", SeccompProfile: m.host.seccompProfile,
		ReadOnly: true,
		// A VOLUME of the image must not become a directory on the host's disk.
		ImageVolumeMode: "tmpfs",
		Systemd:         "false", SdNotify: "ignore",
		HealthConfig: map[string]any{"Test": []string{"NONE"}},
		NetNS:        namespace{"bridge"}, PidNS: private, IpcNS: private, UtsNS: private, CgroupNS: private, UserNS: private,
		IDMappings: idMappings{UIDMap: ids, GIDMap: ids},
		Resources: resources{
			Memory: memoryLimits{m.opts.Limits.Memory, m.opts.Limits.Memory},
			Pids:   pidsLimit{m.opts.Limits.Pids},
		},
		Mounts: []createMount{
			tmpfs("/tmp", "mode=1777", m.opts.Limits.Tmp),
			tmpfs("/run", "mode=0755", m.opts.Limits.Tmp),
		},
		StopTimeout: stopSeconds, RestartPolicy: "no",
		LogConfiguration: map[string]any{"driver": "k8s-file", "size": maxLog},
	}
	if m.opts.LogPath != "" {
		r.LogConfiguration["path"] = m.opts.LogPath
	}
	for _, mount := range s.Mounts {
		r.Mounts = append(r.Mounts, createMount{
			mount.Target, "bind", mount.Source, append([]string{"bind", "rw", "rprivate"}, m.opts.confined()...),
		})
	}
	if phase == Published {
		r.RestartPolicy = "always"
		r.PortMappings = []portMapping{{s.Port, s.HostPort, s.hostIP(), "tcp"}}
	}
	return r
}

// confined are the options that a persisted directory has to be mounted with.
func (o *Options) confined() []string {
	if o.Exec {
		return []string{"nosuid", "nodev"}
	}
	return []string{"noexec", "nosuid", "nodev"}
}

func (s *Spec) hostIP() string {
	if !s.HostAddress.IsValid() {
		return "0.0.0.0"
	}
	return s.HostAddress.String()
}

func tmpfs(target, mode string, size int64) createMount {
	return createMount{target, "tmpfs", "tmpfs", []string{"nosuid", "nodev", "noexec", mode, fmt.Sprintf("size=%d", size)}}
}
