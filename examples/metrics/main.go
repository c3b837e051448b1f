// Command metrics is a bot whose state Prometheus can read, at /metrics: the
// instruments of stability/metrics through OpenTelemetry's exporter. The alert
// rules of deploy/prometheus and the dashboard of deploy/grafana are made for the
// names that it shows.
//
// With -simulate it plays a life with troubles against a simulated service,
// without a phone: point a Prometheus at it to see the dashboard move.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types/events"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/localbackend"
	"github.com/wastability/wastability/stability/metrics"
)

func main() {
	simulated := flag.Bool("simulate", false, "play a life with troubles against a simulated service; needs no phone and no network")
	addr := flag.String("listen", "localhost:9464", "where Prometheus reads /metrics")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := bot
	if *simulated {
		run = simulate
	}
	if err := run(ctx, *addr); err != nil {
		slog.Error("ended", "error", err)
		os.Exit(1)
	}
}

// bot answers every message, and can be watched at addr.
func bot(ctx context.Context, addr string) error {
	backend, err := localbackend.Open("wastability.db")
	if err != nil {
		return err
	}
	manager, err := stability.New(stability.WithBackend(backend), stability.WithQR(stability.PrintQR(os.Stdout)))
	if err != nil {
		return errors.Join(err, backend.Close())
	}
	registry, provider, err := exporter()
	if err != nil {
		return errors.Join(err, manager.Close(context.Background()))
	}
	if _, err := metrics.Register(manager, provider, metrics.WithAccount("shop")); err != nil {
		return errors.Join(err, manager.Close(context.Background()))
	}
	stop, err := serve(addr, registry)
	if err != nil {
		return errors.Join(err, manager.Close(context.Background()))
	}
	defer stop()
	err = manager.Run(ctx, setup)
	return errors.Join(err, manager.Close(context.Background()))
}

// exporter makes a MeterProvider that Prometheus can read. The names are those
// that the rules and the dashboard use: dots become underscores, and units and
// _total are added.
func exporter() (*prometheus.Registry, *metric.MeterProvider, error) {
	registry := prometheus.NewRegistry()
	reader, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo(),
		otelprometheus.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes))
	if err != nil {
		return nil, nil, fmt.Errorf("make the exporter: %w", err)
	}
	return registry, metric.NewMeterProvider(metric.WithReader(reader)), nil
}

// serve answers /metrics until stop is called.
func serve(addr string, registry *prometheus.Registry) (stop func(), err error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for Prometheus (-listen): %w", err)
	}
	fmt.Printf("metrics at http://%s/metrics\n", listener.Addr())
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(listener) }()
	return func() { _ = server.Close() }, nil
}

func setup(_ context.Context, client *whatsmeow.Client) error {
	client.AddEventHandlerWithSuccessStatus(func(evt any) bool { return answer(client, evt) })
	return nil
}

func answer(client *whatsmeow.Client, evt any) bool {
	msg, ok := evt.(*events.Message)
	if !ok || msg.Info.IsFromMe || msg.Info.IsGroup || msg.Message.GetConversation() == "" {
		return true
	}
	reply := &waE2E.Message{Conversation: proto.String("You said: " + msg.Message.GetConversation())}
	_, err := client.SendMessage(context.Background(), msg.Info.Chat, reply)
	return err == nil
}
