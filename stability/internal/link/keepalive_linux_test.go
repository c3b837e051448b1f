package link

import (
	"context"
	"net"
	"net/http"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTCPKeepaliveIsSetAlsoOnAConnectionOfTheHostsDialer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	off := &net.Dialer{KeepAlive: -1}
	for _, tr := range []*http.Transport{nil, {DialContext: off.DialContext}} {
		l := New(Config{Transport: tr})
		c := l.newConn(true)
		nc, err := c.attemptTransport().DialContext(context.Background(), "tcp", ln.Addr().String())
		require.NoError(t, err)
		sc, err := innermost(nc.(*rawConn).Conn).(*net.TCPConn).SyscallConn()
		require.NoError(t, err)
		require.NoError(t, sc.Control(func(fd uintptr) {
			for opt, want := range map[int]int{syscall.TCP_KEEPIDLE: 30, syscall.TCP_KEEPINTVL: 10, syscall.TCP_KEEPCNT: 3} {
				got, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, opt)
				require.NoError(t, err)
				require.Equal(t, want, got)
			}
		}))
		c.Cut(nil)
	}
}
