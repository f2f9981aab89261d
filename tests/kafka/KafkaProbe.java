import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * What Kafka's own Java client says about a topic: the second opinion beside librdkafka, on which the bridge is built.
 *
 * <p>Run on a JDK: {@code tests/kafka/probe.sh COMMAND …} (compiles once), or as source: {@code java -cp
 * "$BUTLR_BRIDGE_TEST_JAVA_CP" tests/kafka/KafkaProbe.java COMMAND …}
 *
 * <pre>
 * read BOOTSTRAP [--timeout-ms N] TOPIC...   every record from the beginning to the end offsets seen at the start, one JSON
 *                                            object a line: topic, partition, offset, timestamp, timestampType
 *                                            (CreateTime | LogAppendTime), keyBase64, valueBase64 (null where there is none),
 *                                            headers: [[name, valueBase64], ...] in their order. Records of one partition come in
 *                                            the order of their offsets. A topic that does not exist is an error.
 * describe BOOTSTRAP [TOPIC...]              one JSON object a line for each topic (all but internal ones when none is named):
 *                                            topic, exists, and where it does: partitions, replicationFactor, beginningOffsets,
 *                                            endOffsets (by partition), configs: {name: {value, source}} (sources as in
 *                                            ConfigEntry.ConfigSource: DEFAULT_CONFIG, DYNAMIC_TOPIC_CONFIG, ...)
 * partitions N                               reads keys (base64, one a line) from standard input; prints for each the partition,
 *                                            of N, that the Java producer takes
 * deny-write BOOTSTRAP TOPIC USER            USER may no longer write to TOPIC; everybody else still may do everything there
 * </pre>
 *
 * <p>Exit status: 0 done, 1 failed (also: not all records came within --timeout-ms, default 30000), 2 bad usage.
 */
public final class KafkaProbe {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final PrintStream OUT = new PrintStream(new java.io.FileOutputStream(java.io.FileDescriptor.out), false, StandardCharsets.UTF_8);

    /** Wrong arguments: status 2. */
    private static final class Usage extends Exception {
        Usage(String message) {
            super(message);
        }
    }

    public static void main(String[] args) {
        // Only what goes wrong; standard output carries the answer.
        System.setProperty("org.slf4j.simpleLogger.defaultLogLevel", "error");
        int status = 0;
        try {
            run(new ArrayList<>(Arrays.asList(args)));
        } catch (Usage | NumberFormatException e) {
            System.err.println("KafkaProbe: " + e.getMessage() + "; usage: read | describe | partitions | deny-write, see the head of KafkaProbe.java");
            status = 2;
        } catch (Exception e) {
            Throwable cause = e instanceof ExecutionException && e.getCause() != null ? e.getCause() : e;
            System.err.println("KafkaProbe: " + cause);
            status = 1;
        }
        OUT.flush();
        if (OUT.checkError() && status == 0) {
            System.err.println("KafkaProbe: standard output could not be written");
            status = 1;
        }
        System.exit(status);
    }

    private static void run(List<String> args) throws Exception {
        String command = take(args, "command");
        switch (command) {
            case "read" -> read(take(args, "BOOTSTRAP"), timeout(args), args);
            case "describe" -> describe(take(args, "BOOTSTRAP"), args);
            case "partitions" -> partitions(Integer.parseInt(take(args, "N")));
            case "deny-write" -> denyWrite(take(args, "BOOTSTRAP"), take(args, "TOPIC"), take(args, "USER"));
            default -> throw new Usage("unknown command " + command);
        }
    }

    private static String take(List<String> args, String what) throws Usage {
        if (args.isEmpty()) {
            throw new Usage(what + " is missing");
        }
        return args.remove(0);
    }

    private static Duration timeout(List<String> args) throws Usage {
        int at = args.indexOf("--timeout-ms");
        if (at < 0) {
            return Duration.ofSeconds(30);
        }
        args.remove(at);
        if (at == args.size()) {
            throw new Usage("--timeout-ms needs a number");
        }
        return Duration.ofMillis(Long.parseLong(args.remove(at)));
    }

    private static KafkaConsumer<byte[], byte[]> consumer(String bootstrap, Duration timeout) {
        return new KafkaConsumer<>(
                Map.of(
                        "bootstrap.servers", bootstrap,
                        "enable.auto.commit", false,
                        // Asking for a topic that is missing must not make it.
                        "allow.auto.create.topics", false,
                        "default.api.timeout.ms", (int) timeout.toMillis(),
                        "request.timeout.ms", (int) timeout.toMillis()),
                new ByteArrayDeserializer(),
                new ByteArrayDeserializer());
    }

    private static Admin admin(String bootstrap) {
        return Admin.create(Map.of("bootstrap.servers", bootstrap, "default.api.timeout.ms", 20_000, "request.timeout.ms", 10_000));
    }

    private static void read(String bootstrap, Duration timeout, List<String> topics) throws Exception {
        if (topics.isEmpty()) {
            throw new Usage("TOPIC is missing");
        }
        long deadline = System.nanoTime() + timeout.toNanos();
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(bootstrap, timeout)) {
            // One request for all topics: asking for a missing one by name would wait out the timeout.
            Map<String, List<PartitionInfo>> known = consumer.listTopics();
            List<TopicPartition> partitions = new ArrayList<>();
            for (String topic : topics) {
                if (!known.containsKey(topic)) {
                    throw new IllegalStateException("topic " + topic + " does not exist");
                }
                known.get(topic).forEach(p -> partitions.add(new TopicPartition(topic, p.partition())));
            }
            Map<TopicPartition, Long> end = consumer.endOffsets(partitions);
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Set<TopicPartition> open = new TreeSet<>((a, b) -> a.toString().compareTo(b.toString()));
            open.addAll(partitions);
            while (true) {
                // The position, not the last record's offset: transaction markers and removed records have offsets too.
                List<TopicPartition> done = new ArrayList<>();
                for (TopicPartition partition : open) {
                    if (consumer.position(partition) >= end.get(partition)) {
                        done.add(partition);
                    }
                }
                open.removeAll(done);
                if (open.isEmpty()) {
                    return;
                }
                consumer.pause(done);
                if (System.nanoTime() > deadline) {
                    throw new IllegalStateException("not read to the end within " + timeout.toMillis() + " ms: " + open);
                }
                ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(200));
                for (ConsumerRecord<byte[], byte[]> record : records) {
                    if (record.offset() < end.get(new TopicPartition(record.topic(), record.partition()))) {
                        print(record);
                    }
                }
            }
        }
    }

    private static void print(ConsumerRecord<byte[], byte[]> record) throws Exception {
        List<List<String>> headers = new ArrayList<>();
        for (Header header : record.headers()) {
            headers.add(Arrays.asList(header.key(), base64(header.value())));
        }
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("topic", record.topic());
        line.put("partition", record.partition());
        line.put("offset", record.offset());
        line.put("timestamp", record.timestamp());
        line.put("timestampType", record.timestampType().toString());
        line.put("keyBase64", base64(record.key()));
        line.put("valueBase64", base64(record.value()));
        line.put("headers", headers);
        OUT.println(JSON.writeValueAsString(line));
    }

    private static String base64(byte[] bytes) {
        return bytes == null ? null : Base64.getEncoder().encodeToString(bytes);
    }

    private static void describe(String bootstrap, List<String> named) throws Exception {
        try (Admin admin = admin(bootstrap);
                KafkaConsumer<byte[], byte[]> consumer = consumer(bootstrap, Duration.ofSeconds(20))) {
            Set<String> existing = admin.listTopics().names().get();
            Collection<String> topics = named.isEmpty() ? new TreeSet<>(existing) : named;
            for (String topic : topics) {
                Map<String, Object> line = new LinkedHashMap<>();
                line.put("topic", topic);
                line.put("exists", existing.contains(topic));
                if (existing.contains(topic)) {
                    TopicDescription description = admin.describeTopics(List.of(topic)).topicNameValues().get(topic).get();
                    List<TopicPartition> partitions =
                            description.partitions().stream().map(p -> new TopicPartition(topic, p.partition())).toList();
                    line.put("partitions", partitions.size());
                    line.put("replicationFactor", description.partitions().get(0).replicas().size());
                    line.put("beginningOffsets", inOrder(partitions, consumer.beginningOffsets(partitions)));
                    line.put("endOffsets", inOrder(partitions, consumer.endOffsets(partitions)));
                    ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
                    Map<String, Map<String, String>> configs = new TreeMap<>();
                    for (ConfigEntry entry : admin.describeConfigs(List.of(resource)).values().get(resource).get().entries()) {
                        Map<String, String> config = new LinkedHashMap<>();
                        config.put("value", entry.value());
                        config.put("source", entry.source().toString());
                        configs.put(entry.name(), config);
                    }
                    line.put("configs", configs);
                }
                OUT.println(JSON.writeValueAsString(line));
            }
        }
    }

    private static List<Long> inOrder(List<TopicPartition> partitions, Map<TopicPartition, Long> offsets) {
        return partitions.stream().map(offsets::get).toList();
    }

    private static void partitions(int count) throws Exception {
        if (count < 1) {
            throw new Usage("N must be at least 1");
        }
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            OUT.println(BuiltInPartitioner.partitionForKey(Base64.getDecoder().decode(line.strip()), count));
        }
    }

    private static void denyWrite(String bootstrap, String topic, String user) throws Exception {
        ResourcePattern resource = new ResourcePattern(ResourceType.TOPIC, topic, PatternType.LITERAL);
        try (Admin admin = admin(bootstrap)) {
            admin.createAcls(
                            List.of(
                                    new AclBinding(resource, new AccessControlEntry("User:" + user, "*", AclOperation.WRITE, AclPermissionType.DENY)),
                                    // Without any rule all is allowed; with the first rule only what a rule allows. A denial wins.
                                    new AclBinding(resource, new AccessControlEntry("User:*", "*", AclOperation.ALL, AclPermissionType.ALLOW))))
                    .all()
                    .get();
        }
    }
}
