package link

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// overtaken is a connection on which the answer arrives while the write of the
// question has not returned yet.
type overtaken struct{ answered func() }

func (o overtaken) Read([]byte) (int, error)    { select {} }
func (o overtaken) Write(p []byte) (int, error) { o.answered(); return len(p), nil }
func (o overtaken) Close() error                { return nil }

// The timer for the server hello would otherwise be armed after the hello, and
// cut a healthy connection 15 s later.
func TestAHelloThatOvertakesTheReturnOfItsWriteArmsNoTimer(t *testing.T) {
	l := New(Config{})
	l.mu.Lock()
	c := l.newConn(true)
	l.mu.Unlock()
	var b *body
	b = newBody(c, overtaken{func() { b.stopTimer() }}, "")
	_, err := b.Write([]byte{0x82, 0x81, 0, 0, 0, 0, 'x'})
	require.NoError(t, err)
	require.True(t, isClosed(b.helloSent))
	require.Nil(t, b.timer)
	require.NoError(t, b.Close())
}
