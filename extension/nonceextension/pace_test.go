package nonceextension

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWritesKeepTheirDistanceUnlessSomebodyIsInAHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pace{every: 50 * time.Millisecond}
		hurry := make(chan struct{}, 1)
		began := time.Now()
		p.wait(hurry)
		require.Zero(t, time.Since(began), "the first one does not wait")
		time.Sleep(20 * time.Millisecond)
		p.wait(hurry)
		require.Equal(t, 50*time.Millisecond, time.Since(began))
		hurry <- struct{}{}
		p.wait(hurry)
		require.Equal(t, 50*time.Millisecond, time.Since(began))
		time.Sleep(time.Second)
		p.wait(hurry)
		require.Equal(t, 1050*time.Millisecond, time.Since(began), "what comes after a pause does not wait")
	})
}
