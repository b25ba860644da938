package sshd

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/crypto/ssh"
)

// connection is one of the owner's.
type connection struct {
	server *Server
	conn   ssh.Conn
	ended  context.Context // done when the connection is

	active atomic.Int64 // when data last went through a session, Unix nanoseconds

	sessions sync.WaitGroup
}

const (
	keepAliveRequest = "keepalive@openssh.com"
	keepAliveMisses  = 3
)

// handle serves a connection to its end.
func (s *Server) handle(raw net.Conn) {
	defer func() { _ = raw.Close() }()
	// A deadline, and not a timer: it also ends a client that sends forever.
	if err := raw.SetDeadline(time.Now().Add(s.config.HandshakeTimeout)); err != nil {
		s.settle(raw, false)
		return
	}
	conn, channels, requests, err := ssh.NewServerConn(raw, s.ssh)
	// Not on the way in alone: what counts is the mark of a verified signature.
	owner := err == nil && conn.Permissions != nil && conn.Permissions.Extensions[verified] != ""
	if !s.settle(raw, owner) {
		if conn != nil {
			_ = conn.Close()
		}
		s.log.Debug("an SSH connection was refused", zap.Stringer("remote", raw.RemoteAddr()), zap.Error(err))
		return
	}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.known, raw)
	}()
	if err := raw.SetDeadline(time.Now().Add(s.config.TotalTimeout)); err != nil {
		return
	}
	ended, cancel := context.WithCancel(context.Background())
	c := &connection{server: s, conn: conn, ended: ended}
	c.touch()
	s.log.Info("the owner logged in by SSH", zap.Stringer("remote", raw.RemoteAddr()))
	var helpers sync.WaitGroup
	helpers.Go(func() { refuseAll(requests) })
	helpers.Go(c.watch)
	c.serve(channels)
	cancel()
	_ = conn.Close()
	c.sessions.Wait()
	helpers.Wait()
}

func (c *connection) touch() { c.active.Store(time.Now().UnixNano()) }

// refuseAll answers tcpip-forward, streamlocal-forward and whatever else there
// is with no.
func refuseAll(requests <-chan *ssh.Request) {
	for r := range requests {
		if r.WantReply {
			_ = r.Reply(false, nil)
		}
	}
}

// watch ends a connection that is idle or whose client is gone.
func (c *connection) watch() {
	config := &c.server.config
	tick := time.NewTicker(config.KeepAlive)
	defer tick.Stop()
	// The idle limit is looked at more often where it is the shorter one.
	idle := time.NewTicker(max(min(config.IdleTimeout/4, config.KeepAlive), time.Millisecond))
	defer idle.Stop()
	var waiting atomic.Int32
	for {
		select {
		case <-c.ended.Done():
			return
		case <-idle.C:
			if time.Since(time.Unix(0, c.active.Load())) > config.IdleTimeout {
				c.server.log.Info("an SSH connection was idle for too long")
				_ = c.conn.Close()
				return
			}
		case <-tick.C:
			if waiting.Load() >= keepAliveMisses {
				_ = c.conn.Close()
				return
			}
			if waiting.Add(1) > 1 {
				continue // the one before is still waited for
			}
			// Ends with the connection at the latest.
			go func() {
				if _, _, err := c.conn.SendRequest(keepAliveRequest, true, nil); err == nil {
					waiting.Store(0)
				}
			}()
		}
	}
}

// serve takes channels until the connection ends.
func (c *connection) serve(channels <-chan ssh.NewChannel) {
	for channel := range channels {
		if channel.ChannelType() != "session" {
			_ = channel.Reject(ssh.Prohibited, "only sessions: nothing is forwarded here")
			continue
		}
		if !c.server.enter() {
			_ = channel.Reject(ssh.ResourceShortage, "too many sessions")
			continue
		}
		ch, requests, err := channel.Accept()
		if err != nil {
			c.server.leave()
			continue
		}
		c.sessions.Go(func() {
			defer c.server.leave()
			newSession(c, ch).serve(requests)
		})
	}
}
