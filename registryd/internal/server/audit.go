package server

import (
	"crypto/sha256"
	"net/http"
	"strconv"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/audit"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// audit lists entries behind a number; the cursor is the last one's number.
func (s *Server) audit(c *call) error {
	after, err := numberOf(c.r, "after")
	if err != nil {
		return err
	}
	limit, err := limitOf(c.r)
	if err != nil {
		return err
	}
	var entries []audit.Entry
	err = s.o.Store.View(c.r.Context(), func(tx *store.Tx) error {
		entries, err = tx.AuditEntries(after, limit)
		return err
	})
	if err != nil {
		return err
	}
	next := ""
	if len(entries) == limit {
		next = strconv.FormatUint(entries[limit-1].Seq, 10)
	}
	return writePage(c, entries, next)
}

// auditHead is the end of the log: signed for this request, for those who send a
// nonce or ask for COSE, or as the last writer signed it.
func (s *Server) auditHead(c *call) error {
	nonce, err := nonceOf(c.r)
	if err != nil {
		return err
	}
	var head audit.Head
	var revision uint64
	err = s.o.Store.View(c.r.Context(), func(tx *store.Tx) (err error) {
		if revision, err = tx.Revision(); err != nil {
			return err
		}
		head, err = tx.AuditHead()
		return err
	})
	switch {
	case err != nil:
		return err
	case nonce == nil && !accepts(c.r, typeCOSE):
		if head.Seq == 0 {
			return api.Refuse(api.NotFound, "the audit log has no entry yet")
		}
		return c.JSON(http.StatusOK, head)
	case head.Seq == 0:
		head.Hash = make([]byte, sha256.Size)
	}
	now := s.o.Now().UTC().Truncate(time.Millisecond)
	signed, err := s.o.Signer.Sign(answer.KindAuditHead, &answer.AuditHead{
		Head: answer.Head{Store: s.o.Store.ID(), Nonce: nonce, Revision: revision, IssuedAt: now, NotAfter: now.Add(answerTTL)},
		Seq:  head.Seq, Hash: head.Hash,
	})
	if err != nil {
		return err
	}
	return c.Bytes(http.StatusOK, typeCOSE, signed)
}

// answerTTL is how long the signed end of the log says something about now.
const answerTTL = 15 * time.Minute
