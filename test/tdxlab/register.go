package tdxlab

import (
	"crypto/sha512"
	"encoding/hex"
	"net/http"
)

// maxTDs bounds the registers of a server.
const maxTDs = 64

// at is RTMR3 of the TD that a request is about.
func (s *Server) at(r *http.Request) [48]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rtmr3[r.PathValue("td")]
}

func (s *Server) register(w http.ResponseWriter, r *http.Request) {
	register := s.at(r)
	answer(w, "text/plain", "", nil, hex.AppendEncode(nil, register[:]))
}

func (s *Server) extend(w http.ResponseWriter, r *http.Request) {
	digest, err := hex.DecodeString(r.PathValue("digest"))
	if err != nil || len(digest) != 48 {
		fail(w, http.StatusBadRequest, "a digest is 96 hexadecimal digits")
		return
	}
	td := r.PathValue("td")
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.rtmr3[td]; !known && len(s.rtmr3) == maxTDs {
		fail(w, http.StatusInsufficientStorage, "as many TDs as may be have a register")
		return
	}
	if s.rtmr3 == nil {
		s.rtmr3 = map[string][48]byte{}
	}
	before := s.rtmr3[td]
	register := sha512.Sum384(append(before[:], digest...))
	s.rtmr3[td] = register
	answer(w, "text/plain", "", nil, hex.AppendEncode(nil, register[:]))
}

func (s *Server) restart(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.rtmr3, r.PathValue("td"))
	w.WriteHeader(http.StatusNoContent)
}
